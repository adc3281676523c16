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
  /** What waits at most, in events and in UTF-16 units; beyond it the oldest is given up. */
  Waiting = 250,
  WaitingUnits = 200_000,
  /** A request with more than one event has no more units than this. */
  BatchUnits = 20_000,
  /** Browsers refuse more than 64 KiB under way at once that are to outlive the page. */
  KeepaliveBytes = 60_000,
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

type Answer = Pick<Response, "status" | "headers">;
/** To a beacon there is no other. */
const TAKEN = { status: 0 } as Answer;

/** Make an outbox. `lastCall` is called when the page is about to go, before what waits is sent. */
export function createOutbox(manner: Manner, lastCall?: () => unknown): Post {
  const shelf = createShelf(manner.name);
  const waiting: Parcel[] = [];
  const underWay = new Set<Parcel>();
  let bytesUnderWay = 0;
  let failures = 0;
  let timer = 0;
  let pausedUntil = 0;
  let leaving = false;
  // How often the page has gone: an answer to what was asked before says nothing of what became of it.
  let departures = 0;

  /** What is under way when the page leaves is as good as delivered, or on the shelf already. */
  const save = (): boolean | undefined => shelf.save(leaving ? waiting : [...underWay, ...waiting]);

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
    let units = 0;
    for (const one of waiting) units += one.body.length;
    while (waiting.length > Limit.Waiting || (units > Limit.WaitingUnits && waiting.length > 1)) {
      units -= waiting.shift()!.body.length;
    }
    save();
    pump();
  }

  function pump(): void {
    clearTimeout(timer);
    if (underWay.size || !waiting.length) return;
    const pause = Math.max(pausedUntil - performance.now(), shelf.forbiddenUntil() - Date.now());
    if (pause > 0) timer = setTimeout(keep, Math.min(pause, Limit.LongestPauseMs), []);
    else deliver();
  }

  /** Take what may share a request. Over what an error came goes alone: one event may be the cause. */
  function take(): Parcel[] {
    const { to, key, tries } = waiting[0]!;
    const most = tries ? 1 : manner.most;
    let units = 0;
    let number = 0;
    for (const one of waiting) {
      units += one.body.length;
      const full = number >= most || units > Limit.BatchUnits;
      if (number && (full || one.tries || one.to !== to || one.key !== key)) break;
      number++;
    }
    return waiting.splice(0, number);
  }

  /** Send the first that wait; nothing, where the browser would not let it outlive the page and it has to. */
  function deliver(lasting?: boolean): boolean {
    const parcels = take();
    const { path, body } = manner.pack(parcels);
    const bytes = new Blob([body]).size;
    const keepalive = bytesUnderWay + bytes <= Limit.KeepaliveBytes;
    if (lasting && !keepalive) {
      waiting.unshift(...parcels);
      return false;
    }
    for (const one of parcels) underWay.add(one);
    bytesUnderWay += bytes;
    void settle(parcels, ask(parcels[0]!.to + path, parcels[0]!.key, body, keepalive), bytes);
    return true;
  }

  async function settle(parcels: Parcel[], asked: Promise<Answer>, bytes: number): Promise<void> {
    const departure = departures;
    let again: boolean;
    try {
      const answer = await asked;
      again = answer.status === 429 || answer.status >= 500;
      if (again && !obey(answer.headers.get("Retry-After")!)) for (const one of parcels) one.tries++;
    } catch {
      // No answer, or none that may be read. When the page goes, browsers fail what is under way and deliver it all
      // the same: again would be twice.
      again = departure === departures;
    }
    bytesUnderWay -= bytes;
    wake();
    // Those that were let go of are another's now.
    const ours = parcels.filter((one) => underWay.delete(one));
    if (again) {
      const pause = Math.min(Limit.FirstPauseMs * 2 ** failures++, Limit.LongestPauseMs);
      pausedUntil = performance.now() + pause * (0.5 + Math.random() / 2);
    } else failures = pausedUntil = 0;
    keep(ours.filter((one) => again && one.tries < Limit.Tries), true);
  }

  /** Send. Throws where it wasn't sent, or nobody knows. */
  async function ask(url: string, key: string, body: string, keepalive: boolean): Promise<Answer> {
    // Without headers no browser has to ask first whether it may.
    const { headers = {}, query = "" } = manner.credential?.(key) ?? {};
    const beacon = (): boolean => navigator.sendBeacon?.(url + query, body);
    if (leaving && keepalive && !query && beacon()) return TAKEN;
    const answer = attempt(() =>
      fetch(url, {
        method: "POST",
        headers,
        body,
        credentials: manner.credentials ?? "omit",
        keepalive,
        signal: AbortSignal.timeout?.(Limit.TimeoutMs),
      }),
    );
    // The page may have taken fetch away.
    return answer ?? (beacon() ? TAKEN : Promise.reject());
  }

  /** Do as the service says, in seconds or with a date. Gives whether it said when, and can have meant it. */
  function obey(retryAfter: string): boolean {
    const ms = +retryAfter * 1_000 || Date.parse(retryAfter) - Date.now();
    // All clients were told the same moment; they need not come in the same instant.
    return ms > 0 && shelf.forbid(Date.now() + ms + Math.random() * Limit.FirstPauseMs);
  }

  /** Send what waits, as much as browsers let outlive the page; the rest stays on the shelf, if it is safe there. */
  function sendAll(): void {
    lastCall?.();
    wake();
    const safe = save();
    if (shelf.forbiddenUntil() > Date.now() || (safe && navigator.onLine === false)) return;
    while (waiting.length && deliver(safe));
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
    if (shelf.save(manner.idempotent ? [...underWay, ...waiting] : waiting, true)) {
      waiting.length = 0;
      if (manner.idempotent) underWay.clear();
    }
  });
  onReturn(arrive);
  // The last a page on a phone may ever hear.
  on("visibilitychange", () => document.hidden && !leaving && sendAll());
  on("online", () => {
    pausedUntil = 0;
    pump();
  });
  guarded(arrive)();

  return (to, key, path, event) =>
    keep([{ to, key, path, body: JSON.stringify(event), at: Date.now(), tries: 0 }]);
}
