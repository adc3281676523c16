/**
 * Keeps what is not delivered in localStorage, so that it outlives the page and still is one page's only.
 *
 * Each page has an item of its own, `[date, parcels]`, and renews its date while there is something in it. Date 0
 * says that the page let go; an old one, that it died. Then the next page of the site takes the item over. Hides
 * names and shape of the items; every method does nothing where storage is blocked, and none throws.
 */

import { attempt, uuid } from "./page";

/** What was to be sent, whole: the page that takes it over may be set up otherwise. */
export interface Parcel {
  /** Origin, or more of the address, without the path. */
  to: string;
  key: string;
  path: string;
  /** The event, as JSON text of an object. */
  body: string;
  /** When it was posted, Unix milliseconds. */
  at: number;
  /** How often the service failed over it. */
  tries: number;
}

const enum Span {
  /** Nobody is silent for so long with something on the shelf, but who sleeps or is dead. */
  LeaseMs = 300_000,
  /** The service knows a message again for 7 days by default: none is repeated as late as that. */
  MaxAgeMs = 5 * 86_400_000,
  /** A process may see another's removal of an item a little later: until then nobody else looks. */
  SettleMs = 500,
  LongestPauseMs = 86_400_000,
}

/** Tell whether it can be sent and is not too old: anything may stand there. */
const isFit = ({ to, key, path, body, at, tries }: Parcel): boolean =>
  [to, key, path, body].every((text) => typeof text === "string") &&
  tries >= 0 &&
  Date.now() - at < Span.MaxAgeMs;

/** Make a page's shelf; `name` is the script's. */
export function createShelf(name: string) {
  const prefix = `polylect.${name}:`;
  const untilItem = `polylect.${name}.until`;
  let mine = prefix + uuid();
  let savedAt = 0;
  let until = 0;

  /** Take everything nobody has, oldest first; whatever can't be read goes. */
  function orphans(): Parcel[] {
    const found: Parcel[] = [];
    for (const item of Object.keys(localStorage)) {
      if (!item.startsWith(prefix)) continue;
      const held = attempt(() => {
        const [date, parcels] = JSON.parse(localStorage.getItem(item)!) as [number, Parcel[]];
        return Math.abs(Date.now() - date) < Span.LeaseMs || void found.push(...parcels.filter(isFit));
      });
      if (!held) localStorage.removeItem(item);
    }
    return found.sort((one, other) => one.at - other.at);
  }

  return {
    /** Keep these, instead of what was kept; or leave them to the next page. Gives whether they are safe there. */
    save(parcels: Parcel[], letGo?: boolean): boolean | undefined {
      const date = letGo ? 0 : Date.now();
      const safe = attempt(() => {
        // Piece by piece: old libraries gave arrays a toJSON that makes a string of them.
        const texts = parcels.map((one) => JSON.stringify(one));
        if (parcels.length) localStorage.setItem(mine, `[${date},[${texts}]]`);
        return parcels.length > 0;
      });
      // Where storage is full, too: what stands there from before may be delivered by now.
      if (!safe) attempt(() => localStorage.removeItem(mine));
      savedAt = safe ? date : 0;
      if (letGo) mine = prefix + uuid();
      return safe;
    },

    /** Whether another page took it all over, while this one slept longer than its word was good for. */
    overslept: () =>
      savedAt && Date.now() - savedAt > Span.LeaseMs && attempt(() => localStorage.getItem(mine) === null),

    /** Give what pages that are gone left behind, if there is any. */
    adopt(take: (parcels: Parcel[]) => void): void {
      const look = async (): Promise<void> => {
        const found = attempt(orphans);
        if (!found?.length) return;
        take(found);
        await new Promise((resolve) => setTimeout(resolve, Span.SettleMs));
      };
      // Missing on pages without TLS: there two tabs of the same instant may both find an orphan.
      const asked = attempt(() => navigator.locks.request(prefix, look)) ?? look();
      asked.catch(() => {});
    },

    /** Let no page of the site send for so long, a day at most. */
    forbid(ms: number): void {
      until = Date.now() + Math.min(ms, Span.LongestPauseMs);
      attempt(() => localStorage.setItem(untilItem, `${until}`));
    },

    /** Give for how long nothing may be sent. What can't be meant is nothing. */
    forbiddenFor(): number {
      const ms = Math.max(until, attempt(() => +localStorage.getItem(untilItem)!) || 0) - Date.now();
      return ms > Span.LongestPauseMs ? 0 : ms;
    },
  };
}
