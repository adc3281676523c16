/** window.apex, after "Events API", snippet format: pageviews, outbound clicks and forms by itself; track on call. */

import { readForm } from "./form";
import { createOutbox, type Manner } from "./outbox";
import { attempt, type Fields, guarded, install, on, optedOut, originOf, uuid, watchPages } from "./page";

/** What stands at window.apex. */
export type Apex = {
  track(name: string, data?: Fields): void;
};

install("apex", "data-project-key", (tag): Apex => {
  const { projectKey: key, honorOptOut } = tag?.dataset ?? {};
  const to = originOf(tag);
  const manner: Manner = {
    name: "apex",
    pack: (parcels) => {
      const bodies = parcels.map(({ body }) => body).join();
      const rest = parcels.length > 1 ? `"events":[${bodies}]}` : bodies.slice(1);
      return { path: "/api/events", body: `{"projectKey":${JSON.stringify(parcels[0]!.key)},${rest}` };
    },
    most: 50,
  };
  const post = key && !optedOut(honorOptOut) && createOutbox(manner, () => announce());
  const announce = watchPages(({ url, referrer }) => write("pageview", url, { referrer: referrer || undefined }));
  let visitorId = "";

  if (!key) console.warn("apex.js: no data-project-key");

  /** The browser's, for a year since the last event; the page's, where cookies are blocked. */
  function visitor(): string {
    const kept = attempt(() => document.cookie.match(/(?:^|; )_apex_vid=(v_[\w-]+)/)?.[1]);
    visitorId = kept || visitorId || "v_" + uuid();
    attempt(() => {
      document.cookie = `_apex_vid=${visitorId};Path=/;Max-Age=31536000;SameSite=Lax`;
    });
    return visitorId;
  }

  function write(type: string, url: string, fields: Fields): void {
    if (!post) return;
    post(to, key!, "", {
      type,
      visitorId: visitor(),
      url,
      ...fields,
      timestamp: new Date().toISOString(),
    });
  }

  /** The page before what happens on it. */
  const send = (type: string, data?: unknown): void => write(type, announce().url, { data });

  function noticeClick(event: MouseEvent): void {
    // The left button, or the middle one, which opens a tab; links in shadow trees and around them, too.
    if (event.button > 1) return;
    const path = event.composedPath() as HTMLAnchorElement[];
    const link = path.find((node) => node.matches?.("a[href],area[href]"));
    // None of mailto:, javascript:, and of <a> in SVG, has a host.
    if (link?.host && link.host !== location.host) {
      // Not as whom it signs in there.
      const href = link.href.replace(/^([^/]*\/\/)[^/]*@/, "$1");
      send("click", { href, elementId: link.id || undefined, outbound: true });
    }
  }

  on("click", noticeClick);
  on("auxclick", noticeClick);
  on("submit", ({ target }) => send("form_submit", readForm(target as HTMLFormElement)));

  return { track: guarded(send) };
});
