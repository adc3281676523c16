/** window.datafly, after "HTTP Endpoints": page events by itself; track, page, identify, group on call. */

import { createOutbox, quietly } from "./outbox";

type Fields = Record<string, unknown>;
type Command = [name: string, ...given: unknown[]];

interface Datafly {
  track(event: string, properties?: Fields): void;
  page(name?: string, properties?: Fields): void;
  identify(userId: string, traits?: Fields): void;
  group(groupId: string, traits?: Fields): void;
  /** What the array that stood here before the script collected: ["track", "Signed Up", {…}]. */
  push(...commands: Command[]): void;
}

declare global {
  interface Window {
    datafly?: Datafly | Command[];
  }
}

declare const VERSION: string;

/** How long a router may take to set the title of the page it went to. */
const TITLE_PATIENCE_MS = 50;

function createDatafly(script: HTMLScriptElement | null): Datafly {
  const key = script?.dataset["pipelineKey"];
  const { origin } = new URL(script?.src || location.href, location.href);
  const post = createOutbox("include", announcePage);
  let url = location.href;
  let referrer = document.referrer;
  // The page the visitor is on has not been told yet.
  let unannounced = true;
  let timer = 0;

  if (!key) console.warn("datafly.js: its script tag has no data-pipeline-key");

  function page(): Fields {
    const { pathname, search } = new URL(url);
    return { url, path: pathname, search, title: document.title, referrer };
  }

  function send(path: string, event: Fields): void {
    announcePage();
    if (!key) return;
    post(`${origin}/v1/${path}`, key, {
      ...event,
      context: {
        page: page(),
        userAgent: navigator.userAgent,
        locale: navigator.language,
        timezone: Intl.DateTimeFormat().resolvedOptions().timeZone,
        library: { name: "datafly.js", version: VERSION },
      },
      timestamp: new Date().toISOString(),
      messageId: uuid(),
    });
  }

  function sendPage(name?: string, properties?: Fields): void {
    send("p", { type: "page", name, properties: { ...page(), ...properties } });
  }

  /** Tell the page before anything else that happens on it. */
  function announcePage(): void {
    clearTimeout(timer);
    if (!unannounced) return;
    unannounced = false;
    sendPage();
  }

  function notice(): void {
    if (address(location.href) === address(url)) return;
    announcePage();
    referrer = url;
    url = location.href;
    unannounced = true;
    timer = setTimeout(quietly(announcePage), TITLE_PATIENCE_MS);
  }

  const navigated = quietly(notice);
  for (const method of ["pushState", "replaceState"] as const) {
    const original = history[method];
    history[method] = function (this: History, ...given: Parameters<History["pushState"]>) {
      original.apply(this, given);
      navigated();
    };
  }
  addEventListener("popstate", navigated);
  if (document.readyState === "loading") addEventListener("DOMContentLoaded", quietly(announcePage));
  else timer = setTimeout(quietly(announcePage), 0);

  const methods = {
    track: quietly((event: string, properties?: Fields) => send("t", { type: "track", event, properties })),
    page: quietly(sendPage),
    identify: quietly((userId: string, traits?: Fields) => send("i", { type: "identify", userId, traits })),
    group: quietly((groupId: string, traits?: Fields) => send("g", { type: "group", groupId, traits })),
  };
  function run([name, ...given]: Command): void {
    (methods as unknown as Record<string, (...given: unknown[]) => void>)[name]?.(...given);
  }

  return {
    ...methods,
    push: (...commands) => commands.forEach(quietly(run)),
  };
}

/** What tells pages apart: an anchor doesn't, a router's `#/route` does. */
function address(href: string): string {
  return href.replace(/#(?![!/]).*/, "");
}

/** UUIDv4; crypto.randomUUID is missing on pages without TLS. */
function uuid(): string {
  return "10000000-1000-4000-8000-100000000000".replace(/[018]/g, (digit) =>
    (+digit ^ (crypto.getRandomValues(new Uint8Array(1))[0]! & (15 >> (+digit / 4)))).toString(16),
  );
}

quietly(() => {
  const earlier = window.datafly;
  // A page that loads the script twice goes on with the first.
  if (earlier && !Array.isArray(earlier) && "track" in earlier) return;
  const script = document.currentScript ?? document.querySelector("script[data-pipeline-key]");
  const datafly = (window.datafly = createDatafly(script as HTMLScriptElement | null));
  if (Array.isArray(earlier)) datafly.push(...earlier);
})();
