import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { guarded, install, optedOut, originOf, sessionOfTab, uuid, watchPages } from "../src/page";

const here = "https://shop.example.com";

beforeEach(() => {
  vi.useFakeTimers();
  sessionStorage.clear();
  history.replaceState({}, "", "/");
});
afterEach(() => vi.useRealTimers());

function watch() {
  const told: string[] = [];
  const announce = watchPages(({ url, referrer }) => told.push(`${referrer} > ${url}`.replaceAll(here, "")));
  return { told, announce };
}

test("a visit on load, and one for each address", () => {
  const { told } = watch();
  vi.runAllTimers();
  history.pushState({}, "", "/a");
  vi.runAllTimers();
  history.replaceState({}, "", "/b");
  vi.runAllTimers();
  expect(told).toEqual([" > /", "/ > /a", "/a > /b"]);
});

test.each([
  ["the same address", () => history.replaceState({ step: 1 }, "", location.href)],
  ["an anchor", () => history.pushState({}, "", "#reviews")],
  ["nothing", () => history.pushState({}, "")],
])("%s is no visit", (_, go) => {
  const { told } = watch();
  vi.runAllTimers();
  go();
  vi.runAllTimers();
  expect(told).toEqual([" > /"]);
});

test.each(["/#/cart", "/#!/cart"])("a router's route behind the # is a visit: %s", (route) => {
  const { told } = watch();
  vi.runAllTimers();
  history.pushState({}, "", route);
  vi.runAllTimers();
  expect(told).toEqual([" > /", `/ > ${route}`]);
});

test("a page left before it was told of is told of first", () => {
  const { told, announce } = watch();
  history.pushState({}, "", "/a");
  expect(told).toEqual([" > /"]);
  announce();
  announce();
  expect(told).toEqual([" > /", "/ > /a"]);
  vi.runAllTimers();
  expect(told.length).toBe(2);
});

test("a page back from the cache is a visit", () => {
  const { told } = watch();
  vi.runAllTimers();
  dispatchEvent(Object.assign(new Event("pageshow"), { persisted: false }));
  expect(told.length).toBe(1);
  dispatchEvent(Object.assign(new Event("pageshow"), { persisted: true }));
  expect(told).toEqual([" > /", " > /"]);
});

test("an address longer than the service takes is cut", () => {
  history.replaceState({}, "", "/" + "x".repeat(9_000));
  const lengths: number[] = [];
  watchPages(({ url }) => lengths.push(url.length));
  vi.runAllTimers();
  expect(lengths).toEqual([8192]);
});

test("what throws is told the console, not the page", () => {
  const warned = vi.spyOn(console, "warn").mockReturnValue();
  guarded(() => {
    throw new Error("no");
  })();
  expect(warned).toHaveBeenCalledOnce();
});

test("nothing is done before a prerendered page is seen; then in order, once", () => {
  const done: number[] = [];
  const act = guarded((n: number) => done.push(n));
  Object.assign(document, { prerendering: true });
  act(1);
  act(2);
  expect(done).toEqual([]);
  Object.assign(document, { prerendering: false });
  document.dispatchEvent(new Event("prerenderingchange"));
  act(3);
  document.dispatchEvent(new Event("prerenderingchange"));
  expect(done).toEqual([1, 2, 3]);
});

test.each([
  [true, true],
  ["", true],
  ["true", true],
  ["1", true],
  ["yes", true],
  ["TRUE", true],
  ["false", false],
  ["False", false],
  [false, false],
  [null, false],
  [undefined, false],
])("a site that honours %j", (honoured, expected) => {
  expect(optedOut(honoured)).toBe(false);
  vi.stubGlobal("navigator", { doNotTrack: "1" });
  expect(optedOut(honoured)).toBe(expected);
  vi.stubGlobal("navigator", { doNotTrack: "0", globalPrivacyControl: true });
  expect(optedOut(honoured)).toBe(expected);
  vi.stubGlobal("navigator", { doNotTrack: "unspecified", globalPrivacyControl: false });
  expect(optedOut(honoured)).toBe(false);
});

test("a session is the tab's, until it is renewed", () => {
  sessionStorage.setItem("item", "earlier");
  expect(sessionOfTab("item")).toBe("earlier");
  const renewed = sessionOfTab("item", true);
  expect(renewed).not.toBe("earlier");
  expect(sessionOfTab("item")).toBe(renewed);
});

test("a session is the page's where storage is blocked", () => {
  vi.stubGlobal("sessionStorage", undefined);
  const session = sessionOfTab("item");
  expect(sessionOfTab("item")).toBe(session);
});

test.each(["not to be written", "frozen"])("a history that is %s is told of no pages, and no harm", (how) => {
  const own = Object.create(history) as History;
  if (how === "frozen") Object.freeze(own);
  else Object.defineProperty(own, "pushState", { value: history.pushState, writable: false });
  vi.stubGlobal("history", own);
  const { told } = watch();
  vi.runAllTimers();
  expect(told).toEqual([" > /"]);
});

test("elements with names of the document's own are not taken for them", () => {
  for (const name of ["prerendering", "currentScript"]) {
    Object.defineProperty(document, name, { value: document.createElement("form"), configurable: true });
  }
  try {
    const act = vi.fn();
    guarded(act)();
    expect(act).toHaveBeenCalledOnce();
    document.body.innerHTML = '<script type="text/plain" data-z="1"></script>';
    const create = vi.fn(() => ({}));
    install("clobbered", "data-z", create);
    expect(create).toHaveBeenCalledExactlyOnceWith(document.querySelector("script"));
  } finally {
    for (const name of ["prerendering", "currentScript"]) {
      Reflect.deleteProperty(document, name);
    }
  }
});

test("ids are UUIDv4", () => {
  const ids = new Set(Array.from({ length: 100 }, uuid));
  expect(ids.size).toBe(100);
  for (const id of ids) expect(id).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
});

test("commands before the script are done when it is there; the script twice is once", () => {
  const globals = window as unknown as Record<string, { push(...commands: unknown[]): void }>;
  const done: unknown[] = [];
  const create = vi.fn(() => ({ say: (word: string) => done.push(word) }));
  (globals as Record<string, unknown>)["here"] = [["say", "a"], null, 7, ["nothing"], ["say", "b"]];
  vi.spyOn(console, "warn").mockReturnValue();
  install("here", "data-x", create);
  install("here", "data-x", create);
  globals["here"]!.push(["say", "c"], ["say", "d"]);
  expect(done).toEqual(["a", "b", "c", "d"]);
  expect(create).toHaveBeenCalledOnce();
});

test("an element of the script's name is no script", () => {
  const globals = window as unknown as Record<string, unknown>;
  // As browsers have it for an id; jsdom's window, as it is here, has not.
  globals["there"] = document.createElement("i");
  install("there", "data-x", () => ({ say: () => {} }));
  expect(globals["there"]).toHaveProperty("say");
});

test("events go where the script came from", () => {
  const tag = document.createElement("script");
  tag.src = "//data.example.com:8443/datafly.js?v=1";
  expect(originOf(tag)).toBe("https://data.example.com:8443");
  expect(originOf(null)).toBe(here);
});
