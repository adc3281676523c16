/** The demo page: buttons above, what became of what they send below. */

import { follow, type Line, type State } from "./feed";
import { createLines, said } from "./lines";
import { createPlot } from "./plot";
import { begin, SENDING } from "./sending";

const DIALECTS = ["pulsora", "pulse", "apex", "datafly", "grpc"] as const;
const STATES: Record<State, string> = { connecting: "Connecting", live: "Live", away: "Away, trying again" };
/** So long after a press what comes through its dialect is likely its own, and is told to who can't see it. */
const OWN_MS = 5_000;

const find = <Found extends HTMLElement>(selector: string): Found => document.querySelector<Found>(selector)!;

const empty = find("#empty");
const pause = find("#pause");
const held = find("#held");
const state = find("#state");
const announcement = find("#said");
const latest = find("#latest");

const plot = createPlot(find("#plot"), DIALECTS);
const lines = createLines(find("#lines"), (number) => {
  held.textContent = number ? `${number} new` : "";
});
let openedMs = 0;
let awaited = "";
let awaitedUntil = 0;
let listInSight = true;

function count(dialect: string, verdict: Line["verdict"], number: number): void {
  const card = document.querySelector(`.dialect[data-dialect="${CSS.escape(dialect)}"]`);
  // What comes over gRPC has no card.
  if (!card) return;
  if (verdict === "stored") {
    const shown = card.querySelector("[data-count]")!;
    shown.textContent = String(Number(shown.textContent) + number);
    return;
  }
  const shown = card.querySelector<HTMLElement>("[data-refused]")!;
  const refused = Number(shown.dataset["refused"]) + number;
  shown.dataset["refused"] = String(refused);
  shown.textContent = `, ${refused} refused`;
  shown.hidden = false;
}

follow({
  line(line) {
    empty.hidden = true;
    lines.add(line);
    latest.textContent = said(line);
    latest.dataset["verdict"] = line.verdict;
    latest.hidden = listInSight;
    if (line.dialect === awaited && performance.now() < awaitedUntil) announcement.textContent = said(line);
  },
  count(dialect, verdict, atMs, number) {
    // Not what was there before: a number that falls when the page is opened anew would look like a loss.
    if (atMs >= openedMs - 1000) count(dialect, verdict, number);
    plot.count(dialect, atMs, number);
  },
  state(now, said) {
    state.dataset["state"] = now;
    state.textContent = said ?? STATES[now];
  },
  opened(atMs) {
    openedMs = atMs;
  },
});

document.addEventListener("click", ({ target }) => {
  const pressed = (target as Element).closest<HTMLElement>("[data-send]");
  if (!pressed) return;
  awaited = pressed.closest<HTMLElement>("[data-dialect]")!.dataset["dialect"]!;
  awaitedUntil = performance.now() + OWN_MS;
  // The stream's state says that the facade is away.
  Promise.resolve(SENDING[pressed.dataset["send"]!]?.()).catch(() => {});
});
// apex.js has seen them before; the page stays.
find("#outbound").addEventListener("click", (event) => event.preventDefault());
find("#form").addEventListener("submit", (event) => event.preventDefault());

pause.addEventListener("click", () => {
  const pausing = pause.getAttribute("aria-pressed") !== "true";
  pause.setAttribute("aria-pressed", String(pausing));
  pause.textContent = pausing ? "Resume" : "Pause";
  lines.hold(pausing);
});

// Where buttons fill a phone, who presses one sees what came of it all the same.
new IntersectionObserver(
  ([seen]) => {
    listInSight = seen!.isIntersecting || seen!.boundingClientRect.top < 0;
    latest.hidden = listInSight || !latest.textContent;
  },
  // A line's height above the foot.
  { rootMargin: "0px 0px -100px" },
).observe(find("#received"));

begin();
