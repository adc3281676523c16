/**
 * What each button sends: through the dialect's script, as a site does; by hand what no browser script sends.
 *
 * The keys are the documents' own examples.
 */

import type { Apex } from "../src/apex";
import type { Datafly } from "../src/datafly";
import type { Fields } from "../src/page";
import type { Pulsora } from "../src/pulsora";
import type { Pulse } from "../src/tracker";

const site = window as unknown as { apex: Apex; datafly: Datafly; pulsora: Pulsora; PULSE: Pulse };
const SITE = "site_abc123";
const PULSE_KEY = "YOUR_API_KEY";

/** Greet with PULSE; the other three tell of the page by themselves. */
export function begin(): void {
  site.PULSE.init({ siteId: SITE, apiKey: PULSE_KEY, endpoint: location.origin });
  site.PULSE.trackPageView();
}

/** By what its button is called. */
export const SENDING: Record<string, () => unknown> = {
  "pulsora-page": () => site.pulsora.pageview(),
  "pulsora-event": () => site.pulsora.event("signup_submit", { plan: "pro", form_variant: "modal" }),
  "pulsora-identify": () => site.pulsora.identify("cus_123"),
  "pulsora-revenue": () => post("/api/ingest", { "X-API-Token": "sec_123" }, revenue()),
  "pulsora-refused": () => post("/api/ingest", { "X-API-Token": "pub_123" }, revenue()),

  "pulse-page": () => site.PULSE.trackPageView(),
  "pulse-signup": () => site.PULSE.trackEvent("user_signup", { userId: "user_123", plan: "premium" }),
  "pulse-purchase": () => site.PULSE.trackEvent("purchase", { userId: "user_123", amount: 79.9, currency: "EUR" }),
  "pulse-batch": () => post("/collect/batch", { Authorization: `Bearer ${PULSE_KEY}` }, pulseBatch()),
  "pulse-refused": () => site.PULSE.trackPageView({ country: "Germany" }),

  "apex-page": () => site.apex.track("pageview"),
  "apex-custom": () => site.apex.track("plan_selected", { plan: "pro" }),
  // apex.js sees link and form by itself.
  "apex-click": () => {},
  "apex-form": () => {},
  "apex-refused": () => site.apex.track(""),

  "datafly-page": () => site.datafly.page("Checkout"),
  "datafly-track": () => site.datafly.track("Product Added", { product_id: "SKU-1234", price: 79.99, quantity: 1 }),
  "datafly-identify": () => site.datafly.identify("user_98765", { name: "Jane Smith", plan: "premium" }),
  "datafly-group": () => site.datafly.group("org_555", { name: "Acme Corp", employees: 250 }),
  "datafly-refused": () => site.datafly.identify("", {}),
};

function revenue(): Fields {
  return {
    type: "revenue",
    data: {
      visitor_fingerprint: "demo_visitor",
      session_id: "demo_session",
      customer_id: "cus_123",
      transaction_id: `txn_${Date.now()}`,
      amount: 79.9,
      currency: "EUR",
    },
  };
}

function pulseBatch(): Fields {
  const at = { url: location.href, timestamp: Date.now() };
  const types = ["page_view", "click", "form_submit"];
  return { session_id: "demo_session", events: types.map((event_type) => ({ event_type, ...at })) };
}

function post(path: string, headers: Record<string, string>, body: Fields): Promise<Response> {
  return fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", ...headers },
    body: JSON.stringify(body),
  });
}
