/** A key that is no part of the event: where it stands, and how it gets there without a header. */

/** What is sent beside an event. */
export interface Credential {
  headers: Record<string, string>;
  /** Instead of the headers, for a beacon, which has none. */
  query: string;
}

/** Give a key as a Bearer token, or as this query parameter. */
export const bearer =
  (parameter: string) =>
  (key: string): Credential => ({
    headers: { "Content-Type": "application/json", Authorization: "Bearer " + key },
    query: `?${parameter}=${encodeURIComponent(key)}`,
  });
