/** window.pulsora, after "REST API", as its core SDK has it: pageviews by itself; pageview, event, identify on call. */

import { createOutbox, type Manner, type Post } from "./outbox";
import { attempt, cut, type Fields, guarded, install, optedOut, originOf, said, sessionOfTab, watchPages } from "./page";

interface Settings {
  apiToken: string;
  /** The whole address; without it the script's own origin is meant. */
  endpoint?: string | undefined;
  autoPageviews?: boolean;
  honorOptOut?: unknown;
}

interface Page {
  url?: string;
  referrer?: string;
  title?: string;
}

/** What stands at window.pulsora. */
export type Pulsora = {
  init(settings: Settings): void;
  pageview(page?: Page): void;
  event(name: string, data?: Fields): void;
  identify(customerId: string): void;
  reset(): void;
  /** None before `init`, and of who opted out. */
  getSessionId(): string | undefined;
  getVisitorFingerprint(): Promise<null>;
};

const MANNER: Manner = {
  name: "pulsora",
  pack: (parcels) => {
    const { path, key, body } = parcels[0]!;
    return { path, body: `{"token":${JSON.stringify(key)},${body.slice(1)}` };
  },
  most: 1,
};
const SESSION_ITEM = "pulsora_session_id";

install("pulsora", "data-token", (tag): Pulsora => {
  let settings: Settings | undefined;
  let announce: ReturnType<typeof watchPages> | undefined;
  let post: Post | undefined;

  function write(type: string, data: Fields): void {
    if (!settings) console.warn("pulsora.js: no data-token, no init");
    post?.(settings!.endpoint ?? originOf(tag) + "/api/ingest", settings!.apiToken, "", {
      type,
      // Null asks the service for one, which lasts a day and needs nothing of the browser.
      data: { visitor_fingerprint: null, session_id: sessionOfTab(SESSION_ITEM), ...data, timestamp: Date.now() },
    });
  }

  function pageview({ url = location.href, referrer = said("referrer"), title = said("title") }: Page = {}): void {
    const { pathname, searchParams } = new URL(url, location.href);
    write("pageview", {
      url: cut(url),
      path: cut(pathname),
      referrer: referrer || undefined,
      referrer_source: sourceOf(referrer),
      title,
      locale: navigator.language,
      ...Object.fromEntries([...searchParams].filter(([name]) => name.startsWith("utm_"))),
    });
  }

  /** The page before what happens on it. */
  function send(type: string, data: Fields): void {
    announce?.();
    write(type, data);
  }

  function init(given?: Partial<Settings>): void {
    if (settings || !given?.apiToken) return console.warn("pulsora.js: a second init, or none of an apiToken");
    settings = { ...given, apiToken: given.apiToken };
    if (!optedOut(given.honorOptOut)) post = createOutbox(MANNER, () => announce?.());
    if (given.autoPageviews !== false) announce = watchPages(pageview);
  }

  const attributes = tag?.dataset;
  if (attributes?.["token"]) init({ ...attributes, apiToken: attributes["token"] });

  return {
    init: guarded(init),
    pageview: guarded((page?: Page) => {
      announce?.();
      pageview(page);
    }),
    event: guarded((name: string, fields?: Fields) =>
      send("event", {
        event_name: name,
        event_data: fields,
        url: cut(location.href),
        path: cut(location.pathname),
      }),
    ),
    identify: guarded((customer: string) => send("identify", { customer_id: customer })),
    reset: guarded(() => post && sessionOfTab(SESSION_ITEM, true)),
    getSessionId: () => post && sessionOfTab(SESSION_ITEM),
    getVisitorFingerprint: async () => null,
  };
});

/** The host that sent the visitor, when it is another's. */
function sourceOf(referrer: string): string | undefined {
  const host = attempt(() => new URL(referrer).hostname);
  return host === location.hostname ? undefined : host?.replace(/^www\./, "");
}
