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

type Count = (dialect: string, verdict: Line["verdict"], atMs: number, number: number) => void;

interface Listener {
  line(line: Line): void;
  /** So many were received in the second that began then. Each is counted once, those without a line too. */
  count: Count;
  /** With what the facade said to it, where it said something. */
  state(state: State, said?: string): void;
  /** The facade's clock when this page was opened, in ms. */
  opened(atMs: number): void;
}

const AGAIN_MS = 2_000;
/** A page nobody looks at gives its place to others. */
const HIDDEN_MS = 60_000;
/** More than a stream repeats at the pace the facade has. */
const MAX_KNOWN = 2_000;
/** Of a second, a dialect and a verdict each; far more than the seconds that are repeated. */
const MAX_COUNTS = 1_000;

/** Follow, and tell the listener of each thing once. */
export function follow(listener: Listener): void {
  const known = new Set<string>();
  const tally = createTally(listener.count);
  let source: EventSource | undefined;
  let lastId = "";
  let timer = 0;

  function open(): void {
    close();
    tally.again();
    source = new EventSource("/demo/events" + (lastId && `?after=${encodeURIComponent(lastId)}`));
    source.onopen = () => listener.state("live");
    source.onmessage = (message: MessageEvent<string>) => {
      lastId = message.lastEventId;
      const line = JSON.parse(message.data) as Line;
      tally.add(line.dialect, line.verdict, Math.floor(Date.parse(line.received_at) / 1000), 1);
      if (known.has(line.id)) return;
      known.add(line.id);
      if (known.size > MAX_KNOWN) known.delete(known.values().next().value!);
      listener.line(line);
    };
    source.addEventListener("beyond", (message: MessageEvent<string>) => {
      lastId = message.lastEventId;
      const counted = JSON.parse(message.data) as [string, Line["verdict"], number, number][];
      for (const each of counted) tally.add(...each);
    });
    source.addEventListener("now", (message: MessageEvent<string>) => {
      if (!lastId) listener.opened(Number(message.data) - performance.now());
    });
    source.onerror = () => {
      listener.state("away");
      tally.again();
      // What broke off is opened again by the browser, what was answered with an error is not.
      if (source?.readyState !== EventSource.CLOSED) return;
      timer = setTimeout(open, AGAIN_MS);
      void refusal().then((said) => source?.readyState === EventSource.CLOSED && said && listener.state("away", said));
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

/** Ask once more, for what a stream that is refused can't be asked for: the words. */
async function refusal(): Promise<string> {
  const asked = new AbortController();
  try {
    const answer = await fetch("/demo/events", { signal: asked.signal });
    return answer.ok ? "" : ((await answer.json()) as { error: string }).error;
  } catch {
    return "";
  } finally {
    asked.abort();
  }
}

/** Counts once what a stream tells, though after a break it begins some seconds before it. */
function createTally(count: Count): { add: (...received: Parameters<Count>) => void; again(): void } {
  // The most any stream told of a second, and what this one did.
  const most = new Map<string, number>();
  let told = new Map<string, number>();
  return {
    add(dialect, verdict, second, number) {
      const key = `${dialect} ${verdict} ${second}`;
      const now = (told.get(key) ?? 0) + number;
      const more = now - (most.get(key) ?? 0);
      told.set(key, now);
      if (more <= 0) return;
      most.set(key, now);
      for (const seconds of [most, told]) if (seconds.size > MAX_COUNTS) seconds.delete(seconds.keys().next().value!);
      count(dialect, verdict, second * 1000, more);
    },
    again() {
      told = new Map();
    },
  };
}
