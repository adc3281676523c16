import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { bearer } from "../src/bearer";
import { createOutbox, type Manner } from "../src/outbox";
import type { Parcel } from "../src/shelf";

const API = "https://data.example.com";

type Answer = { status?: number; retryAfter?: string } | "broken" | "silent";

let number = 0;
/** What each request is answered with, in order; then 200. */
let answers: Answer[] = [];
/** What was asked: the address, and the numbers of its events. */
let asked: { url: string; events: number[]; at: number; init: RequestInit }[] = [];
let silent: ((response: Response) => void)[] = [];

const respond = (status: number, retryAfter?: string): Response =>
  new Response(null, { status, headers: retryAfter ? { "Retry-After": retryAfter } : {} });

function mannerOf(other: Partial<Manner> = {}): Manner {
  return {
    name: `test${number}`,
    pack: (parcels: Parcel[]) => ({ path: "/x", body: `[${parcels.map(({ body }) => body).join()}]` }),
    most: 10,
    ...other,
  };
}

/** A page of the site; its listeners outlive the test, with nothing to do. */
const openPage = (other: Partial<Manner> = {}) => createOutbox(mannerOf(other));

function items(): Record<string, [number, Parcel[]]> {
  const ours = Object.entries(localStorage).filter(([name]) => name.startsWith(`polylect.test${number}:`));
  return Object.fromEntries(ours.map(([name, text]) => [name, JSON.parse(text)]));
}

/** The numbers of the events on the shelf. */
const kept = (): number[] =>
  Object.values(items()).flatMap(([, parcels]) => parcels.map(({ body }) => JSON.parse(body).n));

const numbers = (): number[][] => asked.map(({ events }) => events);
const pass = (ms = 0): Promise<unknown> => vi.advanceTimersByTimeAsync(ms);
const leave = (): boolean => dispatchEvent(new Event("pagehide"));
const comeBack = (): boolean => dispatchEvent(Object.assign(new Event("pageshow"), { persisted: true }));

function hide(): void {
  vi.spyOn(document, "hidden", "get").mockReturnValue(true);
  document.dispatchEvent(new Event("visibilitychange", { bubbles: true }));
}

beforeEach(() => {
  number++;
  answers = [];
  asked = [];
  silent = [];
  localStorage.clear();
  vi.useFakeTimers();
  vi.spyOn(Math, "random").mockReturnValue(1);
  vi.stubGlobal("fetch", (url: string, init: RequestInit) => {
    asked.push({ url, events: JSON.parse(init.body as string).map(({ n }: { n: number }) => n), at: Date.now(), init });
    const answer = answers.shift() ?? {};
    if (answer === "broken") return Promise.reject(new TypeError("Failed to fetch"));
    if (answer === "silent") return new Promise<Response>((resolve) => silent.push(resolve));
    return Promise.resolve(respond(answer.status ?? 200, answer.retryAfter));
  });
});

afterEach(async () => {
  // Nothing of a test may come up in the next one.
  for (const answer of silent) answer(respond(200));
  await vi.runAllTimersAsync();
  vi.useRealTimers();
});

test("one request at a time; what comes up meanwhile shares the next", async () => {
  const post = openPage();
  for (const n of [1, 2, 3]) post(API, "k", "/x", { n });
  expect(numbers()).toEqual([[1]]);
  await pass();
  expect(numbers()).toEqual([[1], [2, 3]]);
  expect(kept()).toEqual([]);
});

test("a request has so many events and units at most, of one address and key", async () => {
  answers = ["silent"];
  const post = openPage({ most: 3 });
  post(API, "k", "/x", { n: 0 });
  for (const n of [1, 2, 3, 4]) post(API, "k", "/x", { n });
  post(API, "other", "/x", { n: 5 });
  post("https://elsewhere.example.com", "other", "/x", { n: 6 });
  for (const n of [7, 8, 9]) post(API, "k", "/x", { n, text: "x".repeat(2_250) });
  post(API, "k", "/x", { n: 10, text: "x".repeat(7_500) });
  silent[0]!(respond(200));
  await pass();
  expect(numbers()).toEqual([[0], [1, 2, 3], [4], [5], [6], [7, 8], [9], [10]]);
  expect(asked[4]!.url).toBe("https://elsewhere.example.com/x");
});

test("later each time, by a share of chance, and not later than a minute", async () => {
  answers = Array(9).fill("broken");
  openPage()(API, "k", "/x", { n: 1 });
  await pass(1e6);
  const pauses = asked.slice(1).map(({ at }, index) => at - asked[index]!.at);
  expect(pauses).toEqual([1, 2, 4, 8, 16, 32, 60, 60, 60].map((seconds) => seconds * 1_000));
  vi.mocked(Math.random).mockReturnValue(0);
  answers = ["broken"];
  const began = asked.length;
  openPage()(API, "k", "/x", { n: 2 });
  await pass(499);
  expect(asked.length).toBe(began + 1);
  await pass(1);
  expect(asked.length).toBe(began + 2);
});

test.each(["30", new Date(30_000).toUTCString()])("never before the service said: %s", async (retryAfter) => {
  vi.setSystemTime(0);
  answers = [{ status: 429, retryAfter }];
  const post = openPage();
  post(API, "k", "/x", { n: 1 });
  await pass();
  // Another page of the site, and this one when it is hidden.
  openPage()(API, "k", "/x", { n: 2 });
  hide();
  await pass(30_999);
  expect(numbers()).toEqual([[1]]);
  await pass(1);
  expect(numbers().flat().sort()).toEqual([1, 1, 2]);
});

test.each(["soon", "0", "-1", "Infinity"])("what the service can't have meant is not obeyed: %s", async (retryAfter) => {
  answers = [{ status: 503, retryAfter }];
  openPage()(API, "k", "/x", { n: 1 });
  await pass(2_000);
  expect(numbers()).toEqual([[1], [1]]);
});

test.each([400, 401, 403, 404, 413, 301])("%i is final", async (status) => {
  answers = [{ status }];
  openPage()(API, "k", "/x", { n: 1 });
  await pass(1e6);
  expect(numbers()).toEqual([[1]]);
  expect(kept()).toEqual([]);
});

test("an event that the service fails over is given up in the end, and alone", async () => {
  answers = [{ status: 429 }, ...Array(9).fill({ status: 500 })];
  const post = openPage();
  post(API, "k", "/x", { n: 1 });
  post(API, "k", "/x", { n: 2 });
  await pass(1e6);
  expect(numbers()).toEqual([...Array(10).fill([1]), [2]]);
});

test.each(["soon", "0", "Infinity"])("a try is counted where nothing was obeyed: %s", async (retryAfter) => {
  answers = Array(100).fill({ status: 503, retryAfter });
  openPage()(API, "k", "/x", { n: 1 });
  await pass(1e6);
  expect(asked.length).toBe(10);
  expect(kept()).toEqual([]);
});

test("none is counted where the service said when", async () => {
  answers = Array(20).fill({ status: 503, retryAfter: "60" });
  openPage()(API, "k", "/x", { n: 1 });
  await pass(3e6);
  expect(asked.length).toBe(21);
});

test("over what an error came shares no request with what was left by another page, either", async () => {
  answers = [{ status: 500 }];
  const post = openPage();
  post(API, "k", "/x", { n: 1 });
  await pass();
  const left = [2, 3].map((n) => ({ to: API, key: "k", path: "/x", body: `{"n":${n}}`, at: Date.now(), tries: 0 }));
  localStorage.setItem(`polylect.test${number}:left`, JSON.stringify([0, left]));
  comeBack();
  await pass(1_000);
  expect(numbers()).toEqual([[1], [2, 3], [1]]);
});

test("a request without an answer is cut off", async () => {
  const cut = vi.spyOn(AbortSignal, "timeout");
  openPage()(API, "k", "/x", { n: 1 });
  expect(cut.mock.calls).toEqual([[30_000]]);
  expect(asked[0]!.init.signal).toBe(cut.mock.results[0]!.value);
});

test("a connection that is never there gives nothing up", async () => {
  answers = Array(100).fill("broken");
  openPage()(API, "k", "/x", { n: 1 });
  await pass(80 * 60_000);
  expect(asked.length).toBeGreaterThan(80);
  await pass(100 * 60_000);
  expect(asked.length).toBe(101);
});

test("the oldest is given up when too many wait, or too much", async () => {
  answers = ["silent"];
  const post = openPage({ most: 1_000 });
  for (let n = 0; n < 300; n++) post(API, "k", "/x", { n });
  expect(kept().slice(1)).toEqual(Array.from({ length: 250 }, (_, index) => index + 50));
  for (let n = 300; n < 310; n++) post(API, "k", "/x", { n, text: "x".repeat(60_000) });
  expect(kept()).toEqual([0, 307, 308, 309]);
});

test("one that is too big by itself drives no other out; what is lost is told once", () => {
  const warned = vi.spyOn(console, "warn").mockReturnValue();
  answers = ["silent"];
  const post = openPage();
  for (const n of [0, 1, 2]) post(API, "k", "/x", { n });
  expect(warned).not.toHaveBeenCalled();
  post(API, "k", "/x", { n: 3, text: "x".repeat(200_000) });
  expect(kept()).toEqual([0, 1, 2]);
  expect(warned).toHaveBeenCalledOnce();
  for (let n = 4; n < 300; n++) post(API, "k", "/x", { n });
  expect(warned).toHaveBeenCalledOnce();
});

test("too many are told, too", () => {
  const warned = vi.spyOn(console, "warn").mockReturnValue();
  answers = ["silent"];
  const post = openPage();
  for (let n = 0; n < 252; n++) post(API, "k", "/x", { n });
  expect(warned).toHaveBeenCalledOnce();
});

test("where nobody answers, only what goes there waits; later each time", async () => {
  const dead = "https://gone.example.com";
  const answer = vi.mocked(fetch);
  vi.stubGlobal("fetch", (url: string, init: RequestInit) => {
    if (url.startsWith(dead)) answers = ["broken"];
    return answer(url, init);
  });
  const post = openPage();
  for (const n of [1, 2]) post(dead, "k", "/x", { n });
  for (const n of [3, 4]) post(API, "k", "/x", { n });
  await pass(900);
  expect(numbers()).toEqual([[1], [3, 4]]);
  asked = [];
  for (let n = 5; n < 65; n++) {
    post(API, "k", "/x", { n });
    await pass(1_000);
  }
  expect(asked.filter(({ url }) => url.startsWith(API)).length).toBe(60);
  expect(asked.filter(({ url }) => url.startsWith(dead)).length).toBe(5);
  expect(kept()).toEqual([1, 2]);
  vi.stubGlobal("fetch", answer);
});

test("a key that no request can carry keeps no other waiting", async () => {
  const answer = vi.mocked(fetch);
  vi.stubGlobal("fetch", (url: string, init: RequestInit) => {
    new Headers(init.headers);
    return answer(url, init);
  });
  const post = openPage({ credential: bearer("k") });
  post(API, "k\u0100", "/x", { n: 1 });
  post(API, "k", "/x", { n: 2 });
  await pass(100);
  expect(numbers()).toEqual([[2]]);
  vi.stubGlobal("fetch", answer);
});

test("who looks at another tab uses up no tries, nor who goes", async () => {
  answers = Array(20).fill({ status: 502 });
  openPage()(API, "k", "/x", { n: 1 });
  await pass();
  for (let time = 0; time < 12; time++) {
    hide();
    await pass(10);
  }
  expect(asked.length).toBe(1);
  expect(kept()).toEqual([1]);
  // Nobody would hear what became of it; on the shelf it is safe.
  leave();
  expect(asked.length).toBe(1);
  expect(kept()).toEqual([1]);
});

test("where twice is once, what failed is sent when the page goes, and kept all the same", async () => {
  answers = [{ status: 502 }];
  openPage({ idempotent: true })(API, "k", "/x", { n: 1 });
  await pass();
  leave();
  expect(asked.length).toBe(2);
  expect(kept()).toEqual([1]);
});

test("where there is no shelf what failed is sent when the page is hidden", async () => {
  vi.spyOn(Storage.prototype, "setItem").mockImplementation(() => {
    throw new DOMException("full", "QuotaExceededError");
  });
  answers = [{ status: 502 }];
  openPage()(API, "k", "/x", { n: 1 });
  await pass();
  hide();
  expect(asked.length).toBe(2);
});

test.each([
  ["90000", 86_400],
  ["99999999999", 86_400],
  ["3, 3", 3],
])("what the service may have meant: %s", async (retryAfter, seconds) => {
  answers = [{ status: 503, retryAfter }];
  vi.mocked(Math.random).mockReturnValue(0);
  openPage()(API, "k", "/x", { n: 1 });
  await pass(seconds * 1_000 - 1);
  expect(asked.length).toBe(1);
  await pass(1);
  expect(asked.length).toBe(2);
});

test("of many that others left, so many are taken as may wait", () => {
  vi.spyOn(console, "warn").mockReturnValue();
  answers = ["silent"];
  const one = { to: API, key: "k", path: "/x", body: '{"n":1}', at: Date.now(), tries: 0 };
  localStorage.setItem(`polylect.test${number}:left`, JSON.stringify([0, Array(5_000).fill(one)]));
  openPage();
  expect(kept().length).toBe(250);
});

test("an event is what it was when it was posted", async () => {
  answers = ["silent"];
  const post = openPage();
  post(API, "k", "/x", { n: 1 });
  const event = { n: 2 };
  post(API, "k", "/x", event);
  event.n = 3;
  silent[0]!(respond(200));
  await pass();
  expect(numbers()).toEqual([[1], [2]]);
});

test("where it is online again nothing is waited for", async () => {
  answers = ["broken", "broken", "broken"];
  openPage()(API, "k", "/x", { n: 1 });
  await pass(3_000);
  expect(asked.length).toBe(3);
  dispatchEvent(new Event("online"));
  expect(asked.length).toBe(4);
});

test("what a page leaves the next one sends, with its own address and key", async () => {
  answers = ["silent"];
  const post = openPage({ idempotent: true });
  post(API, "first", "/x", { n: 1 });
  vi.spyOn(navigator, "onLine", "get").mockReturnValue(false);
  post("https://elsewhere.example.com", "second", "/x", { n: 2 });
  leave();
  expect(Object.values(items()).map(([date]) => date)).toEqual([0]);
  expect(kept()).toEqual([1, 2]);
  asked = [];
  openPage({ credential: bearer("k") });
  await pass();
  expect(asked.map(({ url, events, init }) => [url, events, (init.headers as Record<string, string>)["Authorization"]])).toEqual([
    [`${API}/x`, [1], "Bearer first"],
    ["https://elsewhere.example.com/x", [2], "Bearer second"],
  ]);
  expect(items()).toEqual({});
});

test("what is under way when the page goes is the next one's only where the service knows it again", async () => {
  for (const idempotent of [true, false]) {
    number++;
    answers = ["silent"];
    const post = openPage({ idempotent });
    post(API, "k", "/x", { n: 1 });
    post(API, "k", "/x", { n: 2 });
    leave();
    expect(kept()).toEqual(idempotent ? [1, 2] : []);
    comeBack();
    await pass();
  }
});

test("an answer that comes after the page let go changes nothing on the shelf", async () => {
  for (const late of [respond(200), respond(503)]) {
    number++;
    asked = [];
    answers = ["silent", "silent"];
    const post = openPage({ idempotent: true });
    post(API, "k", "/x", { n: 1 });
    post(API, "k", "/x", { n: 2 });
    leave();
    silent.splice(0).forEach((answer) => answer(late.clone()));
    await pass(10_000);
    expect(numbers().flat()).toEqual([1, 2]);
    expect(kept()).toEqual([1, 2]);
    asked = [];
    comeBack();
    await pass();
    expect(numbers()).toEqual([[1, 2]]);
    expect(kept()).toEqual([]);
  }
});

test("what fails after the page came back is sent again, where nobody else has it", async () => {
  answers = ["silent"];
  const post = openPage();
  post(API, "k", "/x", { n: 1 });
  leave();
  comeBack();
  silent[0]!(respond(503));
  await pass(1_000);
  expect(numbers()).toEqual([[1], [1]]);
});

test("what breaks off as the page goes is taken as delivered, where the service doesn't know it again", async () => {
  let breakOff = (_: Error): void => {};
  vi.stubGlobal("fetch", () => {
    asked.push({ url: "", events: [], at: 0, init: {} });
    return new Promise((_, reject) => (breakOff = reject));
  });
  openPage()(API, "k", "/x", { n: 1 });
  leave();
  breakOff(new TypeError("Failed to fetch"));
  await pass();
  comeBack();
  await pass(10_000);
  expect(asked.length).toBe(1);
  expect(kept()).toEqual([]);
});

test("what is under way when the page goes stays off the shelf when another answer comes", async () => {
  answers = ["silent", "silent"];
  const post = openPage();
  post(API, "k", "/x", { n: 1 });
  post(API, "k", "/x", { n: 2 });
  leave();
  silent[0]!(respond(200));
  await pass();
  expect(numbers()).toEqual([[1], [2]]);
  expect(kept()).toEqual([]);
});

test("a page that goes while offline sends nothing, and leaves it", async () => {
  answers = ["broken"];
  const post = openPage();
  post(API, "k", "/x", { n: 1 });
  post(API, "k", "/x", { n: 2 });
  await pass();
  vi.spyOn(navigator, "onLine", "get").mockReturnValue(false);
  leave();
  expect(numbers()).toEqual([[1]]);
  expect(kept()).toEqual([1, 2]);
});

test("what was answered makes room for more when the page goes", async () => {
  const post = openPage();
  for (let n = 0; n < 5; n++) {
    post(API, "k", "/x", { n, text: "x".repeat(10_000) });
    await pass();
  }
  expect(asked.map(({ init }) => init.keepalive)).toEqual([true, true, true, true, true]);
});

test("after a success pauses are short again", async () => {
  answers = ["broken", "broken", "broken", {}, "broken"];
  const post = openPage();
  post(API, "k", "/x", { n: 1 });
  await pass(7_000);
  expect(numbers()).toEqual([[1], [1], [1], [1]]);
  post(API, "k", "/x", { n: 2 });
  await pass(1_000);
  expect(numbers().slice(4)).toEqual([[2], [2]]);
});

test("only so much is sent when a page goes; the rest stays", async () => {
  const post = openPage();
  answers = Array(9).fill("silent");
  // 3,750 bytes each: the units are less than the bytes.
  for (let n = 0; n < 8; n++) post(API, "k", "/x", { n, text: "ä".repeat(1_875) });
  leave();
  expect(numbers()).toEqual([[0], [1, 2]]);
  expect(asked.every(({ init }) => init.keepalive)).toBe(true);
  expect(kept()).toEqual([3, 4, 5, 6, 7]);
});

test("without a shelf the rest is sent all the same", async () => {
  vi.spyOn(Storage.prototype, "setItem").mockImplementation(() => {
    throw new DOMException("full", "QuotaExceededError");
  });
  const post = openPage({ most: 1 });
  answers = Array(9).fill("silent");
  for (let n = 0; n < 5; n++) post(API, "k", "/x", { n, text: "x".repeat(6_250) });
  leave();
  expect(asked.map(({ init }) => init.keepalive)).toEqual([true, true, false, false, false]);
});

test("nor by beacon is more sent than may be under way", async () => {
  const beacons: string[] = [];
  const sendBeacon = (_: string, body: string): boolean => beacons.push(...JSON.parse(body).map((one: { n: number }) => one.n)) > 0;
  vi.stubGlobal("navigator", Object.create(navigator, { sendBeacon: { value: sendBeacon } }));
  vi.spyOn(Storage.prototype, "setItem").mockImplementation(() => {
    throw new DOMException("full", "QuotaExceededError");
  });
  const post = openPage({ most: 1 });
  answers = Array(9).fill("silent");
  for (let n = 0; n < 4; n++) post(API, "k", "/x", { n, text: "x".repeat(6_250) });
  leave();
  expect(beacons).toEqual([1]);
  expect(asked.map(({ events, init }) => [...events, init.keepalive])).toEqual([
    [0, true],
    [2, false],
    [3, false],
  ]);
});

test("a page that goes is asked for its last word once, hidden as it is then", () => {
  const lastWord = vi.fn();
  createOutbox(mannerOf(), lastWord);
  leave();
  hide();
  expect(lastWord).toHaveBeenCalledOnce();
});

test("a page that slept sends nothing that another took over when it is hidden, either", async () => {
  answers = ["broken"];
  openPage()(API, "k", "/x", { n: 1 });
  await pass();
  vi.setSystemTime(Date.now() + 301_000);
  localStorage.clear();
  hide();
  await pass();
  expect(numbers()).toEqual([[1]]);
});

test("a page that slept while another took it all over has nothing left to send", async () => {
  answers = ["broken", "broken"];
  const post = openPage();
  post(API, "k", "/x", { n: 1 });
  await pass();
  // Timers stand still in a page that is frozen; the clock doesn't.
  vi.setSystemTime(Date.now() + 301_000);
  localStorage.clear();
  await pass(60_000);
  expect(numbers()).toEqual([[1]]);
  post(API, "k", "/x", { n: 2 });
  await pass(60_000);
  expect(numbers()).toEqual([[1], [2], [2]]);
});

test.each(["online", "pageshow"])("nor when %s wakes it", async (event) => {
  answers = ["broken", "broken"];
  openPage()(API, "k", "/x", { n: 1 });
  await pass();
  vi.setSystemTime(Date.now() + 301_000);
  localStorage.clear();
  dispatchEvent(Object.assign(new Event(event), { persisted: true }));
  await pass(60_000);
  expect(numbers()).toEqual([[1]]);
});

test("a page that clears the storage loses nothing by it", async () => {
  answers = ["broken"];
  const post = openPage();
  post(API, "k", "/x", { n: 1 });
  await pass();
  localStorage.clear();
  await pass(1_000);
  expect(numbers()).toEqual([[1], [1]]);
});

test("while something waits the shelf's date is renewed", async () => {
  answers = [{ status: 429, retryAfter: "3600" }];
  openPage()(API, "k", "/x", { n: 1 });
  for (let minutes = 0; minutes < 50; minutes += 5) {
    await pass(5 * 60_000);
    const [date] = Object.values(items())[0]!;
    expect(Date.now() - date).toBeLessThanOrEqual(60_000);
    openPage();
  }
  expect(numbers()).toEqual([[1]]);
});

test("without fetch a beacon goes, with the key in the address where it is in no body", async () => {
  const beacons: string[] = [];
  vi.stubGlobal("navigator", Object.create(navigator, { sendBeacon: { value: (url: string) => beacons.push(url) > 0 } }));
  vi.stubGlobal("fetch", undefined);
  openPage({ credential: bearer("wk") })(API, "a&b", "/x", { n: 1 });
  await pass(100_000);
  expect(beacons).toEqual([`${API}/x?wk=a%26b`]);
  expect(kept()).toEqual([]);
});

function stubBeacon(sendBeacon: () => boolean): void {
  const properties = { sendBeacon: { value: sendBeacon }, onLine: { value: true } };
  vi.stubGlobal("navigator", Object.create(navigator, properties));
}

test("a beacon that is refused is one try, and kept where the page goes", async () => {
  const sendBeacon = vi.fn(() => false);
  stubBeacon(sendBeacon);
  vi.stubGlobal("fetch", undefined);
  const post = openPage();
  post(API, "k", "/x", { n: 1 });
  await pass(1e6);
  expect(sendBeacon).toHaveBeenCalledTimes(10);
  expect(kept()).toEqual([]);
  post(API, "k", "/x", { n: 2 });
  leave();
  await pass();
  expect(kept()).toEqual([2]);
});

test("where no beacon can be sent a page that goes lets go all the same", async () => {
  const warned = vi.spyOn(console, "warn").mockReturnValue();
  stubBeacon(() => {
    throw new TypeError("The URL argument is ill-formed or unsupported.");
  });
  answers = ["silent", "broken"];
  const post = openPage({ idempotent: true });
  post(API, "k", "/x", { n: 1 });
  post("https://", "k", "/x", { n: 2 });
  leave();
  await pass();
  expect(warned).not.toHaveBeenCalled();
  expect(numbers()).toEqual([[1], [2]]);
  expect(Object.values(items()).map(([date]) => date)).toEqual([0]);
  comeBack();
  await pass();
  expect(numbers().slice(2)).toEqual([[1], [2]]);
});

test("what fails later, too, is told the console and not the page", async () => {
  const warned = vi.spyOn(console, "warn").mockReturnValue();
  answers = ["broken"];
  openPage()(API, "k", "/x", { n: 1 });
  await pass();
  vi.stubGlobal("Blob", undefined);
  await pass(1_000);
  expect(warned).toHaveBeenCalledOnce();
});
