/** The list of what was received, newest first. Hides how a line is shown, and how many are. */

import type { Line } from "./feed";

const MAX_LINES = 200;
const NAMES: Record<string, string> = { pulsora: "Pulsora", pulse: "PULSE", apex: "Apex", datafly: "Datafly", grpc: "gRPC" };
/** What a line shows of what is known, in this order; the rest stands below it. */
const GLANCE = ["page", "user", "device", "country", "came from", "campaign"];

interface Lines {
  add(line: Line): void;
  /** Hold lines back from now on, or show those held back. */
  hold(held: boolean): void;
}

/** Keep a list in an element; `heldBack` is told how many lines wait. */
export function createLines(list: HTMLElement, heldBack: (number: number) => void): Lines {
  let waiting: Line[] = [];
  let holding = false;
  let due = false;

  /** All that came since the last frame at once: a thousand may. */
  function show(): void {
    due = false;
    if (holding) return heldBack(waiting.length);
    for (const line of waiting.splice(0)) insert(line);
    while (list.children.length > MAX_LINES) list.lastElementChild!.remove();
  }

  /** Newest first; sources differ by moments. */
  function insert(line: Line): void {
    let before = list.firstElementChild as HTMLElement | null;
    while (before && before.dataset["at"]! > line.received_at) before = before.nextElementSibling as HTMLElement | null;
    list.insertBefore(item(line), before);
  }

  function showSoon(): void {
    if (due) return;
    due = true;
    // Not a frame's: a page in the background has none.
    setTimeout(show, 16);
  }

  return {
    add(line) {
      waiting.push(line);
      // What would be pushed out again at once.
      if (waiting.length > MAX_LINES) waiting = waiting.slice(-MAX_LINES);
      showSoon();
    },
    hold(held) {
      holding = held;
      heldBack(0);
      showSoon();
    },
  };
}

/** Say in a few words what a line says. */
export function said(line: Line): string {
  const what = line.verdict === "stored" ? `stored: ${title(line)}` : `refused: ${line.message}`;
  return `${nameOf(line.dialect)} ${what}`;
}

function nameOf(dialect: string): string {
  return NAMES[dialect] ?? (dialect || "unknown");
}

function title(line: Line): string {
  return [line.kind, line.name].filter(Boolean).join(" ");
}

function item(line: Line): HTMLElement {
  const details = element("details", "", [summary(line)]);
  details.addEventListener("toggle", () => details.childElementCount > 1 || details.append(body(line)));
  const shown = element("li", line.verdict, [details]);
  shown.dataset["at"] = line.received_at;
  shown.dataset["dialect"] = line.dialect;
  // For who has the request's id, from the browser's own tools, and looks for its line.
  shown.dataset["request"] = line.known["request"] ?? "";
  return shown;
}

function summary(line: Line): HTMLElement {
  const at = new Date(line.received_at);
  const time = element("time", "", [at.toLocaleTimeString([], { hour12: false })]);
  time.setAttribute("datetime", line.received_at);
  const stored = line.verdict === "stored";
  const what = stored
    ? [element("b", "", [line.kind ?? ""]), line.name ? ` ${line.name}` : ""]
    : [element("b", "", [line.message ?? ""])];
  const glance = stored
    ? GLANCE.map((label) => line.known[label]).filter((value) => value !== undefined)
    : [line.reason ?? ""];
  return element("summary", "", [
    time,
    element("span", "from", [nameOf(line.dialect)]),
    element("span", "verdict", [line.verdict]),
    element("span", "what", what),
    element("span", "glance", glance.flatMap((value) => [element("span", "", [value]), " "])),
  ]);
}

function body(line: Line): HTMLElement {
  const facts = Object.entries(line.known).flatMap(([label, value]) => [
    element("dt", "", [label]),
    element("dd", "", [value]),
  ]);
  const parts: HTMLElement[] = [element("dl", "", facts)];
  if (line.gap) parts.push(element("p", "note", ["More happened before this than can be shown."]));
  if (line.text) {
    const pre = element("pre", "", [line.text]);
    // Who has no mouse scrolls it too.
    pre.tabIndex = 0;
    pre.setAttribute("role", "region");
    const label = line.verdict === "stored" ? "The canonical event, as it is stored" : "What was sent";
    pre.setAttribute("aria-label", label);
    parts.push(element("h3", "", [label]), pre);
  }
  const request = line.known["request"];
  if (request) parts.push(element("p", "note", ["Its story: ", element("code", "", [`polylect why ${request}`])]));
  return element("div", "body", parts);
}

function element(name: string, className: string, children: (Node | string)[]): HTMLElement {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
}
