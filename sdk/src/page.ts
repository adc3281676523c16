/**
 * What a script may do with the page it is on, and when.
 *
 * Hides prerendering, the back/forward cache, blocked storage and how routers navigate. Knows no dialect.
 */

export type Fields = Record<string, unknown>;

const MAX_URL = 8192;
/** How long a router may take to set the title of the page it went to. */
const TITLE_PATIENCE_MS = 50;

let session = "";

/** Do something that may fail, as storage does where it is blocked; give undefined then. */
export function attempt<Result>(act: () => Result, tell?: boolean): Result | undefined {
  try {
    return act();
  } catch (error) {
    if (tell) console.warn(error);
    return undefined;
  }
}

/**
 * Make a function that never throws into the page: analytics must not break what it looks at.
 *
 * Where the page is prerendered it is done as soon as somebody sees it; in the order of the calls.
 */
export function guarded<Arguments extends unknown[]>(act: (...given: Arguments) => unknown) {
  return (...given: Arguments): void => {
    const run = (): unknown => attempt(() => act(...given), true);
    // Nothing but true: an element of the page may have the name.
    if ((document as { prerendering?: unknown }).prerendering === true) {
      document.addEventListener("prerenderingchange", run, { once: true });
    } else run();
  };
}

/** Do something guarded when the window hears of it, before the page does. */
export function on<Heard extends Event>(type: string, act: (event: Heard) => unknown): void {
  addEventListener(type, guarded(act) as (event: Event) => void, true);
}

/** Do something when the page comes back from the cache of pages. */
export function onReturn(act: () => unknown): void {
  on("pageshow", ({ persisted }: PageTransitionEvent) => persisted && act());
}

/**
 * Put a script's methods at window[name], once, and do what an array that stood there before had collected:
 * `["track", "Signed Up", {…}]`. `create` gets the script's own tag, which has the attribute.
 */
export function install(
  name: string,
  attribute: string,
  create: (tag: HTMLScriptElement | null) => Record<string, (...given: never[]) => unknown>,
): void {
  attempt(() => {
    const globals = window as unknown as Fields;
    const earlier = globals[name] as { push?: unknown } | undefined;
    // A page that loads the script twice goes on with the first.
    if (earlier?.push && !Array.isArray(earlier)) return;
    const running = document.currentScript;
    const tag =
      running?.localName === "script" ? running : document.querySelector(`script[${attribute}]`);
    const methods = create(tag as HTMLScriptElement | null);
    const run = guarded(([method, ...given]: [string, ...never[]]) => methods[method]?.(...given));
    const push = (...commands: unknown[]): void => commands.forEach((command) => run(command as [string]));
    globals[name] = { ...methods, push };
    if (Array.isArray(earlier)) push(...earlier);
  }, true);
}

/** Give where a script came from: that is where its events go. */
export function originOf(tag: HTMLScriptElement | null): string {
  return new URL(tag?.src || location.href).origin;
}

/**
 * Tell whether the visitor's browser says "don't track me" and the site, by a setting or attribute, honours it.
 * Whatever it says but "false" does: a slip is not to be at the visitor's cost.
 */
export function optedOut(honoured: unknown): boolean {
  const { doNotTrack, globalPrivacyControl } = navigator as Navigator & { globalPrivacyControl?: boolean };
  return !/^false$/i.test(`${honoured ?? false}`) && (globalPrivacyControl || doNotTrack === "1");
}

/** Give what the document says of itself; nothing, where an element of the page has taken the name. */
export function said(name: "referrer" | "title"): string {
  const text: unknown = document[name];
  return typeof text === "string" ? text : "";
}

/** Make a UUIDv4; crypto.randomUUID is missing on pages without TLS. */
export function uuid(): string {
  return "10000000-1000-4000-8000-100000000000".replace(/[018]/g, (digit) =>
    (+digit ^ (crypto.getRandomValues(new Uint8Array(1))[0]! >> (4 + +digit / 4))).toString(16),
  );
}

/** Give the session of this tab, kept under a name; of this page, where storage is blocked. */
export function sessionOfTab(item: string, renewed?: boolean): string {
  session = (!renewed && (attempt(() => sessionStorage.getItem(item)) || session)) || uuid();
  attempt(() => sessionStorage.setItem(item, session));
  return session;
}

export interface Visit {
  url: string;
  referrer: string;
}

/**
 * Tell of every page the visitor comes to: on load, when the address changes, and back from the cache of pages.
 *
 * An anchor is no page, a router's `#/route` is. Gives a function that tells of a page not told yet: call it before
 * anything else is said of what happens there.
 */
export function watchPages(tell: (visit: Visit) => void): () => Visit {
  const visit: Visit = { url: cut(location.href), referrer: said("referrer") };
  let unannounced = true;
  let timer = 0;

  function announce(): Visit {
    clearTimeout(timer);
    if (unannounced) {
      unannounced = false;
      tell(visit);
    }
    return visit;
  }

  function notice(): void {
    const url = cut(location.href);
    if (address(url) === address(visit.url)) return;
    announce();
    visit.referrer = visit.url;
    visit.url = url;
    unannounced = true;
    timer = setTimeout(guarded(announce), TITLE_PATIENCE_MS);
  }

  const navigated = guarded(notice);
  for (const method of ["pushState", "replaceState"] as const) {
    const original = history[method];
    // A page may have frozen it.
    attempt(() => {
      history[method] = function (this: History, ...given: Parameters<History["pushState"]>) {
        original.apply(this, given);
        navigated();
      };
    });
  }
  on("popstate", notice);
  onReturn(() => {
    unannounced = true;
    announce();
  });
  if (document.readyState === "loading") on("DOMContentLoaded", announce);
  else timer = setTimeout(guarded(announce), 0);
  return announce;
}

/** Give as much of an address as the service takes: one cut short is better than none. */
export const cut = (url: string): string => url.slice(0, MAX_URL);

/** What tells pages apart. */
function address(href: string): string {
  return href.replace(/#(?![!/]).*/, "");
}
