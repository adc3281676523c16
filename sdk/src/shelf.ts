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
      let held: unknown;
      attempt(() => {
        const [date, parcels] = JSON.parse(localStorage.getItem(item)!) as [number, Parcel[]];
        held = Math.abs(Date.now() - date) < Span.LeaseMs;
        if (!held) found.push(...parcels.filter((one) => one.body.length && Date.now() - one.at < Span.MaxAgeMs));
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
        if (parcels.length) localStorage.setItem(mine, JSON.stringify([date, parcels]));
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

    /** Let no page of the site send before this moment, Unix milliseconds; false, where it can't be meant. */
    forbid(moment: number): boolean {
      if (moment > Date.now() + Span.LongestPauseMs) return false;
      until = moment;
      attempt(() => localStorage.setItem(untilItem, `${moment}`));
      return true;
    },

    /** Give the moment before which nothing may be sent. One that can't be meant is none. */
    forbiddenUntil(): number {
      const moment = Math.max(until, attempt(() => +localStorage.getItem(untilItem)!) || 0);
      return moment > Date.now() + Span.LongestPauseMs ? 0 : moment;
    },
  };
}
