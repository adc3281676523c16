/**
 * Delivers events to the facade: one after the other, again where that can help, all at once when the page goes.
 *
 * One after the other, because the first answer sets the cookie that the next request must carry. Hides when and
 * how often something is sent; knows nothing of what it sends.
 */

/** What waits at most; beyond it the oldest is given up. */
const MAX_WAITING = 100;
const MAX_TRIES = 10;
const FIRST_PAUSE_MS = 1_000;
const LONGEST_PAUSE_MS = 60_000;
const TIMEOUT_MS = 30_000;
/** A longer timer fires at once. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;
/** Browsers refuse keepalive beyond 64 KiB; a UTF-16 unit is 3 bytes of UTF-8 at most. */
const MAX_KEEPALIVE_UNITS = 20_000;

interface Parcel {
  url: string;
  key: string;
  body: string;
  tries: number;
}

/** Takes one event: where to, with which bearer key, and what. The event is read at once and may change later. */
export type Post = (url: string, key: string, event: object) => void;

/** Make an outbox. `lastCall` is called when the page is about to go, before what waits is sent. */
export function createOutbox(credentials: RequestCredentials, lastCall: () => void = () => {}): Post {
  const waiting: Parcel[] = [];
  let underWay = 0;
  let failures = 0;
  let timer = 0;
  let gone = false;
  // Nothing is sent before: by our own patience, and by the server's word, which holds even when the page goes.
  let pausedUntil = 0;
  let forbiddenUntil = 0;

  function pump(): void {
    clearTimeout(timer);
    if (underWay || !waiting.length) return;
    const pause = Math.max(pausedUntil, forbiddenUntil) - performance.now();
    if (pause > 0) timer = setTimeout(pump, Math.min(pause, LONGEST_TIMER_MS));
    else void deliver(waiting.shift()!);
  }

  async function deliver(parcel: Parcel): Promise<void> {
    underWay++;
    let again = true;
    try {
      const response = await fetch(parcel.url, {
        method: "POST",
        headers: { "Content-Type": "application/json", Authorization: `Bearer ${parcel.key}` },
        body: parcel.body,
        credentials,
        keepalive: parcel.body.length <= MAX_KEEPALIVE_UNITS,
        signal: AbortSignal.timeout?.(TIMEOUT_MS) ?? null,
      });
      again = response.status === 429 || response.status >= 500;
      if (again) obey(response.headers.get("Retry-After"));
    } catch {
      // No answer, or none that may be read. When the page goes, browsers fail what is under way and deliver it
      // all the same: again would be twice.
      again = !gone;
    }
    underWay--;
    if (again) {
      const pause = Math.min(FIRST_PAUSE_MS * 2 ** failures++, LONGEST_PAUSE_MS);
      pausedUntil = performance.now() + pause * (0.5 + Math.random() / 2);
      if (++parcel.tries < MAX_TRIES) keep(parcel, true);
    } else {
      failures = pausedUntil = 0;
    }
    pump();
  }

  function obey(retryAfter: string | null): void {
    if (!retryAfter) return;
    const ms = /^\d+$/.test(retryAfter) ? +retryAfter * 1_000 : Date.parse(retryAfter) - Date.now();
    // All clients were told the same moment; they need not come in the same instant.
    if (ms > 0) forbiddenUntil = performance.now() + ms + Math.random() * FIRST_PAUSE_MS;
  }

  function keep(parcel: Parcel, first?: boolean): void {
    if (first) waiting.unshift(parcel);
    else waiting.push(parcel);
    if (waiting.length > MAX_WAITING) waiting.shift();
  }

  function sendAll(): void {
    lastCall();
    if (performance.now() >= forbiddenUntil) for (const parcel of waiting.splice(0)) void deliver(parcel);
  }

  addEventListener("pagehide", quietly(() => {
    gone = true;
    sendAll();
  }));
  addEventListener("pageshow", () => {
    gone = false;
    pump();
  });
  // The last a page on a phone may ever hear.
  addEventListener("visibilitychange", quietly(() => document.visibilityState === "hidden" && sendAll()), true);
  addEventListener("online", () => {
    pausedUntil = 0;
    pump();
  });

  return (url, key, event) => {
    keep({ url, key, body: JSON.stringify(event), tries: 0 });
    pump();
  };
}

/** Make a function that never throws into the page: analytics must not break what it looks at. */
export function quietly<Arguments extends unknown[]>(act: (...given: Arguments) => unknown) {
  return (...given: Arguments): void => {
    try {
      act(...given);
    } catch (error) {
      console.warn(error);
    }
  };
}
