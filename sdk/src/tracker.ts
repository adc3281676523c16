/** window.PULSE, after "Send Your First Event", Method 2: init, trackPageView, trackEvent. */

import { createOutbox, quietly } from "./outbox";

type Fields = Record<string, unknown>;

interface Settings {
  siteId: string;
  apiKey: string;
  endpoint: string;
}

interface Pulse {
  init(settings: Settings): void;
  trackPageView(fields?: Fields): void;
  trackEvent(name: string, props?: Fields): void;
}

declare global {
  interface Window {
    PULSE?: Pulse;
  }
}

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
  const post = createOutbox("omit");
  const early: Fields[] = [];
  let memorySession = "";
  let settings: Settings | undefined;

  /** The tab's, or this page's where storage is blocked. */
  function sessionId(): string {
    try {
      const kept = sessionStorage.getItem(SESSION_ITEM);
      if (kept) return kept;
      sessionStorage.setItem(SESSION_ITEM, (memorySession ||= newSession()));
    } catch {
      memorySession ||= newSession();
    }
    return memorySession;
  }

  function track(name: string, given: Fields, names: Map<string, string>): void {
    const event: Fields = {
      event_type: name,
      timestamp: Date.now(),
      session_id: sessionId(),
      url: location.href.slice(0, MAX_URL),
      referrer: document.referrer.slice(0, MAX_URL) || undefined,
    };
    const properties: Fields = {};
    for (const [name, value] of Object.entries(given)) {
      const field = names.get(name);
      if (!field) properties[name] = value;
      else if (value != null && value !== "") event[field] = String(value).slice(0, MAX_URL);
    }
    // Apart from the fields, so that no prop can take one's place.
    if (Object.keys(properties).length) event["properties"] = properties;
    send(event);
  }

  function send(event: Fields): void {
    if (settings) post(settings.endpoint + "/collect", settings.apiKey, { site_id: settings.siteId, ...event });
    else if (early.length < MAX_EARLY) early.push(event);
  }

  return {
    init: quietly((given: Settings) => {
      settings = { ...given, endpoint: given.endpoint.replace(/\/+$/, "") };
      early.splice(0).forEach(send);
    }),
    trackPageView: quietly((fields?: Fields) => track("page_view", fields ?? {}, PAGE_FIELDS)),
    trackEvent: quietly((name: string, props?: Fields) => track(name, props ?? {}, EVENT_FIELDS)),
  };
}

function newSession(): string {
  const random = crypto.getRandomValues(new Uint32Array(4));
  return "session_" + Array.from(random, (part) => part.toString(36)).join("");
}

// A page that loads the script twice goes on with the first.
quietly(() => {
  if (!window.PULSE?.init) window.PULSE = createPulse();
})();
