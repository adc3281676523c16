/** window.PULSE, after "Send Your First Event", Method 2: init, trackPageView, trackEvent. */

import { bearer } from "./bearer";
import { createOutbox, type Manner, type Post } from "./outbox";
import { attempt, type Fields, guarded, optedOut, said, sessionOfTab } from "./page";

interface Settings {
  siteId: string;
  apiKey: string;
  endpoint: string;
  /** Of the events that name none themselves. */
  userId?: string;
  honorOptOut?: boolean;
}

/** What stands at window.PULSE. */
export interface Pulse {
  init(settings: Settings): void;
  trackPageView(fields?: Fields): void;
  trackEvent(name: string, props?: Fields): void;
}

declare global {
  interface Window {
    PULSE?: Pulse;
  }
}

const MANNER: Manner = {
  name: "pulse",
  pack: (parcels) =>
    parcels.length > 1
      ? { path: "/collect/batch", body: `{"events":[${parcels.map(({ body }) => body).join()}]}` }
      : parcels[0]!,
  most: 50,
  credential: bearer("api_key"),
};
const SESSION_ITEM = "pulse_session_id";
/** Events before init that are kept for it. */
const MAX_EARLY = 100;
/** The longest address the service takes: one cut short is better than none. */
const MAX_URL = 2048;
/** What the service calls the fields of a page view. */
const PAGE_FIELDS = new Map([
  ["url", "url"],
  ["referrer", "referrer"],
  ["deviceType", "device_type"],
  ["country", "country"],
  ["userId", "user_id"],
]);
/** Of an event only the user: `url` or `country` among its props are the page's own affair. */
const EVENT_FIELDS = new Map([["userId", "user_id"]]);

function createPulse(): Pulse {
  let post: Post | undefined;
  const early: Fields[] = [];
  let settings: Settings | undefined;

  function track(name: string, given: Fields, names: Map<string, string>): void {
    const event: Fields = {
      event_type: name,
      timestamp: Date.now(),
      url: location.href.slice(0, MAX_URL),
      referrer: said("referrer").slice(0, MAX_URL) || undefined,
    };
    const properties: Fields = {};
    for (const [key, value] of Object.entries(given)) {
      const field = names.get(key);
      if (!field) properties[key] = value;
      else if (value != null && value !== "") event[field] = String(value).slice(0, MAX_URL);
    }
    // Apart from the fields, so that no prop can take one's place.
    if (Object.keys(properties).length) event["properties"] = properties;
    send(event);
  }

  function send(event: Fields): void {
    if (!settings) {
      if (early.length < MAX_EARLY) early.push(event);
      return;
    }
    const { siteId, apiKey, endpoint, userId } = settings;
    post?.(endpoint, apiKey, "/collect", {
      site_id: siteId,
      session_id: sessionOfTab(SESSION_ITEM),
      ...(userId && { user_id: `${userId}` }),
      ...event,
    });
  }

  return {
    init: guarded((given: Settings) => {
      if (!given?.siteId || !given.apiKey || !given.endpoint)
        return console.warn("tracker.js: init wants siteId, apiKey and endpoint");
      settings = { ...given, endpoint: given.endpoint.replace(/\/+$/, "") };
      post = optedOut(given.honorOptOut) ? undefined : (post ?? createOutbox(MANNER));
      early.splice(0).forEach(send);
    }),
    trackPageView: guarded((fields?: Fields) => track("page_view", fields ?? {}, PAGE_FIELDS)),
    trackEvent: guarded((name: string, props?: Fields) => track(name, props ?? {}, EVENT_FIELDS)),
  };
}

// A page that loads the script twice goes on with the first.
attempt(() => {
  if (!window.PULSE?.init) window.PULSE = createPulse();
}, true);
