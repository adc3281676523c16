/** window.datafly, after "HTTP Endpoints": page events by itself; track, page, identify, group on call. */

import { bearer } from "./bearer";
import { createOutbox, type Manner } from "./outbox";
import { type Fields, guarded, install, optedOut, originOf, said, uuid, type Visit, watchPages } from "./page";

declare const VERSION: string;

/** What stands at window.datafly. */
export type Datafly = {
  track(event: string, properties?: Fields): void;
  page(name?: string, properties?: Fields): void;
  identify(userId: string, traits?: Fields): void;
  group(groupId: string, traits?: Fields): void;
};

install("datafly", "data-pipeline-key", (tag): Datafly => {
  const { pipelineKey: key, honorOptOut } = tag?.dataset ?? {};
  const to = originOf(tag);
  const manner: Manner = {
    name: "datafly",
    pack: (parcels) =>
      parcels.length > 1
        ? { path: "/v1/batch", body: `{"batch":[${parcels.map(({ body }) => body).join()}]}` }
        : parcels[0]!,
    most: 50,
    credential: bearer("wk"),
    credentials: "include",
    idempotent: true,
  };
  const post = key && !optedOut(honorOptOut) && createOutbox(manner, () => announce());
  const announce = watchPages((visit) => write("p", { type: "page", properties: page(visit) }, visit));

  if (!key) console.warn("datafly.js: no data-pipeline-key");

  function page({ url, referrer }: Visit): Fields {
    const { pathname, search } = new URL(url);
    return { url, path: pathname, search, title: said("title"), referrer };
  }

  function write(path: string, event: Fields, visit: Visit): void {
    if (!post) return;
    post(to, key!, "/v1/" + path, {
      ...event,
      context: {
        page: page(visit),
        userAgent: navigator.userAgent,
        locale: navigator.language,
        timezone: Intl.DateTimeFormat().resolvedOptions().timeZone,
        library: { name: "datafly.js", version: VERSION },
      },
      timestamp: new Date().toISOString(),
      messageId: uuid(),
    });
  }

  /** The page before what happens on it. */
  const send = (path: string, event: Fields): void => write(path, event, announce());

  return {
    track: guarded((event: string, properties?: Fields) => send("t", { type: "track", event, properties })),
    page: guarded((name?: string, properties?: Fields) =>
      send("p", { type: "page", name, properties: { ...page(announce()), ...properties } }),
    ),
    identify: guarded((userId: string, traits?: Fields) => send("i", { type: "identify", userId, traits })),
    group: guarded((groupId: string, traits?: Fields) => send("g", { type: "group", groupId, traits })),
  };
});
