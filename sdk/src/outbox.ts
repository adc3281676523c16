/**
 * Delivers events to the facade: one request after the other, again where that can help, all at once when the page
 * goes.
 *
 * One after the other, because the first answer may set the cookie that the next request must carry; what comes up
 * meanwhile shares the next request. Hides when and how often something is sent; knows nothing of what it sends.
 */

import type { Credential } from "./bearer";
import { attempt, guarded, on, onReturn } from "./page";
import { createShelf, type Parcel } from "./shelf";

// An enum, because its members stand in the built script as the numbers they are.
const enum Limit {
  /** What waits at most, in events and in UTF-16 units; beyond it the oldest is given up, or what is more by itself. */
  Waiting = 250,
  WaitingUnits = 200_000,
  /** A request with more than one event has no more units than this. */
  BatchUnits = 5_000,
  /** Browsers refuse more than 64 KiB under way at once that are to outlive the page: four scripts may share it. */
  KeepaliveBytes = 15_000,
  /** After so many errors over one event it is given up. */
  Tries = 10,
  FirstPauseMs = 1_000,
  /** And how often the shelf's date is renewed. */
  LongestPauseMs = 60_000,
  TimeoutMs = 30_000,
}

/** How a dialect is spoken. */
export interface Manner {
  /** The script's name. */
  name: string;
  /** Where one or more events of one address and key are sent, and in which words. */
  pack(parcels: Parcel[]): { path: string; body: string };
  /** Events in one request at most. */
  most: number;
  /** Gives what tells the key, where the body doesn't. */
  credential?(key: string): Credential;
  /** Fetch's own: whether cookies go along. */
  credentials?: RequestCredentials;
  /** The service knows a repeated event again, so that one is better sent twice than perhaps not at all. */
  idempotent?: boolean;
}

/** Takes one event: where to, with which key, and what. The event is read at once and may change later. */
export type Post = (to: string, key: string, path: string, event: object) => void;

/** Where it goes, and as whose. */
const goalOf = ({ to, key }: Parcel): string => `${to} ${key}`;

/** Make an outbox. `lastCall` is called when the page is about to go, before what waits is sent. */
export function createOutbox(manner: Manner, lastCall?: () => unknown): Post {
  const shelf = createShelf(manner.name);
  const waiting: Parcel[] = [];
  const underWay = new Set<Parcel>();
  // Of a goal that failed: for how long it is left alone, and until when.
  let pauses: Record<string, [ms?: number, until?: number]> = {};
  let timer = 0;
  let leaving = false;
  let complained = false;
  // How often the page has gone: an answer to what was asked before says nothing of what became of it.
  let departures = 0;

  /** What is under way when the page leaves is as good as delivered, where it would be stored twice else. */
  const save = (letGo?: boolean): boolean | undefined =>
    shelf.save(leaving && !manner.idempotent ? waiting : [...underWay, ...waiting], letGo);

  /** Find out whether somebody else has it all by now. */
  function wake(): void {
    if (!shelf.overslept()) return;
    waiting.length = 0;
    underWay.clear();
  }

  function keep(parcels: Parcel[], first?: boolean): void {
    wake();
    if (first) waiting.unshift(...parcels);
    else waiting.push(...parcels);
    const units = (): number => waiting.reduce((sum, { body }) => sum + body.length, 0);
    while (waiting.length > Limit.Waiting || units() > Limit.WaitingUnits) {
      waiting.shift();
      complain();
    }
    save();
    pump();
  }

  /** Say that events are lost; once, for it is when there is too much already. */
  function complain(): void {
    if (!complained) console.warn(`${manner.name}: events are lost`);
    complained = true;
  }

  const pausedUntil = (one: Parcel): number => pauses[goalOf(one)]?.[1] ?? 0;

  /** Give the first of those that are paused least: where nobody answers, only what goes there waits. */
  const next = (): Parcel =>
    waiting.reduce((first, one) => (pausedUntil(one) < pausedUntil(first) ? one : first));

  /** Give for how long the next one is still to be left alone. */
  const pause = (): number => pausedUntil(next()) - performance.now();

  function pump(): void {
    clearTimeout(timer);
    wake();
    if (underWay.size || !waiting.length) return;
    const ms = Math.max(pause(), shelf.forbiddenFor());
    if (ms > 0) timer = setTimeout(guarded(keep), Math.min(ms, Limit.LongestPauseMs), []);
    else deliver();
  }

  /** Take what may share a request. Over what an error came goes alone: one event may be the cause. */
  function take(): Parcel[] {
    const first = next();
    const start = waiting.indexOf(first);
    let units = 0;
    let number = 0;
    for (const one of waiting.slice(start, start + manner.most)) {
      units += one.body.length;
      const fits = units <= Limit.BatchUnits && goalOf(one) === goalOf(first) && !one.tries && !first.tries;
      if (number && !fits) break;
      number++;
    }
    return waiting.splice(start, number);
  }

  /** Send the next that wait; nothing, where the browser would not let it outlive the page and it has to. */
  function deliver(lasting?: boolean): boolean {
    const parcels = take();
    const { to, key } = parcels[0]!;
    const { path, body } = manner.pack(parcels);
    const others = [...underWay].map((one) => one.body);
    const keepalive = new Blob([body, ...others]).size <= Limit.KeepaliveBytes;
    if (lasting && !keepalive) {
      waiting.unshift(...parcels);
      return false;
    }
    for (const one of parcels) underWay.add(one);
    // Without headers no browser has to ask first whether it may.
    const { headers = {}, query = "" } = manner.credential?.(key) ?? {};
    // May be missing, and throws where the address is none.
    const beacon = () => attempt(() => navigator.sendBeacon(to + path + query, body));
    const send = (): Promise<Response> =>
      fetch(to + path, {
        method: "POST",
        headers,
        body,
        credentials: manner.credentials ?? "omit",
        keepalive,
        signal: AbortSignal.timeout?.(Limit.TimeoutMs),
      });
    // The page may have taken fetch away.
    void settle(parcels, (leaving && keepalive && !query && beacon()) || attempt(send) || beacon());
    return true;
  }

  /** Hear what became of it; of a beacon, whether the browser took it; nothing, where there is no way at all. */
  async function settle(parcels: Parcel[], sent: Promise<Response> | boolean | undefined): Promise<void> {
    const departure = departures;
    let again: boolean;
    try {
      const { status = 0, headers } = ((await sent) ?? {}) as Partial<Response>;
      again = !sent || status === 429 || status >= 500;
      if (again && !obey(headers?.get("Retry-After") ?? "")) for (const one of parcels) one.tries++;
    } catch {
      // No answer, or none that may be read. When the page goes, browsers fail what is under way and deliver it all
      // the same: again would be twice.
      again = departure === departures;
    }
    wake();
    const goal = goalOf(parcels[0]!);
    const [before = Limit.FirstPauseMs / 2] = pauses[goal] ?? [];
    const ms = Math.min(before * 2, Limit.LongestPauseMs);
    pauses[goal] = again ? [ms, performance.now() + ms * (0.5 + Math.random() / 2)] : [];
    // Those that were let go of are another's now.
    keep(
      parcels.filter((one) => underWay.delete(one) && again && one.tries < Limit.Tries),
      true,
    );
  }

  /** Do as the service says, in seconds or with a date. Gives whether it said anything of the kind. */
  function obey(retryAfter: string): boolean {
    // Of "3, 3", as it is when the header is there twice, the first.
    const ms = parseInt(retryAfter) * 1_000 || Date.parse(retryAfter) - Date.now();
    // All clients were told the same moment; they need not come in the same instant.
    if (ms > 0) shelf.forbid(ms + Math.random() * Limit.FirstPauseMs);
    return ms > 0;
  }

  /**
   * Send what waits, as much as browsers let outlive the page; the rest stays on the shelf, if it is safe there. So
   * does what failed just now: of a page that goes nobody hears whether it arrived, so that it would have to be given
   * up; and who looks at another tab is not to use up its tries.
   */
  function sendAll(): void {
    lastCall?.();
    wake();
    const safe = save();
    if (shelf.forbiddenFor() > 0 || (safe && navigator.onLine === false)) return;
    while (waiting.length && (!safe || pause() <= 0 || (leaving && manner.idempotent)) && deliver(safe));
  }

  function arrive(): void {
    leaving = false;
    shelf.adopt((parcels) => keep(parcels, true));
    pump();
  }

  on("pagehide", () => {
    leaving = true;
    sendAll();
    departures++;
    // Another page goes on with what stays, or this one, should it come back.
    if (save(true)) {
      waiting.length = 0;
      if (manner.idempotent) underWay.clear();
    }
  });
  onReturn(arrive);
  // The last a page on a phone may ever hear.
  on("visibilitychange", () => document.hidden && !leaving && sendAll());
  on("online", () => {
    pauses = {};
    pump();
  });
  guarded(arrive)();

  return (to, key, path, event) => {
    const body = JSON.stringify(event);
    // One that is too big by itself is not to drive the others out.
    if (body.length > Limit.WaitingUnits) complain();
    else keep([{ to, key, path, body, at: Date.now(), tries: 0 }]);
  };
}
