/**
 * What the facade tells of the demo sources, as long as somebody looks.
 *
 * Hides that the stream breaks, goes on where it was, and repeats the last seconds then.
 */

export interface Line {
  id: string;
  dialect: string;
  verdict: "stored" | "refused";
  received_at: string;
  /** Something before it was left out. */
  gap: boolean;
  /** Of what was stored. */
  kind?: string;
  name?: string;
  /** Of what was refused. */
  reason?: string;
  message?: string;
  /** What is worth a glance, by its label. */
  known: Record<string, string>;
  /** The canonical event; of what was refused what was sent, where it was kept. */
  text: string;
}

export type State = "connecting" | "live" | "away";

interface Listener {
  line(line: Line): void;
  /** So many came that they were only counted. */
  beyond(dialect: string, verdict: Line["verdict"], number: number): void;
  state(state: State): void;
}

const AGAIN_MS = 2_000;
/** A page nobody looks at gives its place to others. */
const HIDDEN_MS = 60_000;
/** More than a stream repeats at the pace the facade has. */
const MAX_KNOWN = 2_000;

/** Follow, and tell the listener of each thing once. */
export function follow(listener: Listener): void {
  const known = new Set<string>();
  let source: EventSource | undefined;
  let lastId = "";
  let timer = 0;

  function open(): void {
    close();
    source = new EventSource("/demo/events" + (lastId && `?after=${encodeURIComponent(lastId)}`));
    source.onopen = () => listener.state("live");
    source.onmessage = (message: MessageEvent<string>) => {
      lastId = message.lastEventId;
      const line = JSON.parse(message.data) as Line;
      if (known.has(line.id)) return;
      known.add(line.id);
      if (known.size > MAX_KNOWN) known.delete(known.values().next().value!);
      listener.line(line);
    };
    source.addEventListener("beyond", (message: MessageEvent<string>) => {
      lastId = message.lastEventId;
      const counted = JSON.parse(message.data) as [string, Line["verdict"], number][];
      for (const each of counted) listener.beyond(...each);
    });
    source.onerror = () => {
      listener.state("away");
      // What broke off is opened again by the browser, what was answered with an error is not.
      if (source?.readyState === EventSource.CLOSED) timer = setTimeout(open, AGAIN_MS);
    };
  }

  function close(): void {
    clearTimeout(timer);
    source?.close();
    source = undefined;
  }

  document.addEventListener("visibilitychange", () => {
    clearTimeout(timer);
    if (document.visibilityState === "hidden") timer = setTimeout(close, HIDDEN_MS);
    else if (source?.readyState !== EventSource.OPEN) open();
  });
  addEventListener("pagehide", close);
  addEventListener("pageshow", ({ persisted }) => persisted && open());
  open();
}
