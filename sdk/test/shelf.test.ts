import { beforeEach, expect, test, vi } from "vitest";
import { createShelf, type Parcel } from "../src/shelf";

const parcel = (body: string, at = Date.now()): Parcel => ({ to: "", key: "", path: "", body, at, tries: 0 });
const put = (name: string, content: unknown): void => localStorage.setItem(name, JSON.stringify(content));

function adopted(name: string): string[] {
  const bodies: string[] = [];
  createShelf(name).adopt((parcels) => bodies.push(...parcels.map(({ body }) => body)));
  return bodies;
}

beforeEach(() => localStorage.clear());

test("one page's only, while it lives", () => {
  createShelf("s").save([parcel("a")]);
  expect(adopted("s")).toEqual([]);
});

test("what was let go of is whoever's comes first", () => {
  createShelf("s").save([parcel("a")], true);
  expect(adopted("other")).toEqual([]);
  expect(adopted("s")).toEqual(["a"]);
  expect(adopted("s")).toEqual([]);
});

test("a page that let go has nothing more to do with it", () => {
  const shelf = createShelf("s");
  shelf.save([parcel("a")], true);
  shelf.save([parcel("b")]);
  shelf.save([]);
  expect(adopted("s")).toEqual(["a"]);
});

test("what was let go of is nobody's loss, however long ago", () => {
  vi.useFakeTimers();
  const shelf = createShelf("s");
  shelf.save([parcel("a")], true);
  vi.setSystemTime(Date.now() + 301_000);
  expect(shelf.overslept()).toBeFalsy();
  vi.useRealTimers();
});

test("the oldest first, of several, and none that is too old", () => {
  const day = 86_400_000;
  put("polylect.s:1", [0, [parcel("b", Date.now() - day), parcel("d")]]);
  put("polylect.s:2", [1, [parcel("a", Date.now() - 2 * day), parcel("ancient", Date.now() - 6 * day)]]);
  put("polylect.s:3", [Date.now() - 301_000, [parcel("c", Date.now() - 1_000)]]);
  expect(adopted("s")).toEqual(["a", "b", "c", "d"]);
  expect(localStorage.length).toBe(0);
});

test("a date in the far future was written by a clock that was wrong", () => {
  put("polylect.s:1", [Date.now() + 3_600_000, [parcel("a")]]);
  expect(adopted("s")).toEqual(["a"]);
});

test.each(["", "{", "null", "7", "[0]", "[0,7]", "[0,[null]]", '{"a":1}'])("what can't be read goes: %s", (text) => {
  localStorage.setItem("polylect.s:bad", text);
  put("polylect.s:good", [0, [parcel("a")]]);
  expect(adopted("s")).toEqual(["a"]);
  expect(localStorage.length).toBe(0);
});

test.each(["to", "key", "path", "body", "at", "tries"])("what can't be sent goes: a parcel with no such %s", (member) => {
  for (const wrong of [undefined, null, {}, ["a"]]) {
    if (member === "tries" && wrong === null) continue;
    if (member === "at" && (wrong === null || Array.isArray(wrong))) continue;
    put("polylect.s:bad", [0, [{ ...parcel("a"), [member]: wrong }, parcel("b")]]);
    expect(adopted("s")).toEqual(["b"]);
    expect(localStorage.length).toBe(0);
  }
});

test("nothing is lost where arrays make strings of themselves", () => {
  const list = Array.prototype as { toJSON?: unknown };
  list.toJSON = function (this: unknown[]) {
    return `[${this.join()}]`;
  };
  try {
    createShelf("s").save([parcel("a"), parcel("b")], true);
    expect(adopted("s")).toEqual(["a", "b"]);
  } finally {
    delete list.toJSON;
  }
});

test("a pause of more than a day is one of a day; a moment later than that was never said", () => {
  vi.useFakeTimers();
  const shelf = createShelf("s");
  shelf.forbid(90_000_000);
  expect([shelf.forbiddenFor(), createShelf("s").forbiddenFor()]).toEqual([86_400_000, 86_400_000]);
  localStorage.setItem("polylect.s.until", "9e99");
  expect(createShelf("s").forbiddenFor()).toBe(0);
  vi.useRealTimers();
});

test("of others' items nothing is touched", () => {
  put("polylect.so", 1);
  put("other", 2);
  adopted("s");
  expect(localStorage.length).toBe(2);
});

test("where storage is full nothing that is delivered stays behind", () => {
  const shelf = createShelf("s");
  expect(shelf.save([parcel("a")])).toBe(true);
  vi.spyOn(Storage.prototype, "setItem").mockImplementation(() => {
    throw new DOMException("full", "QuotaExceededError");
  });
  expect(shelf.save([parcel("b")])).toBeFalsy();
  expect(localStorage.length).toBe(0);
});

test("where storage is blocked nothing is kept and nothing thrown", () => {
  vi.stubGlobal("localStorage", undefined);
  const shelf = createShelf("s");
  expect(shelf.save([parcel("a")])).toBeFalsy();
  expect(shelf.overslept()).toBeFalsy();
  expect(adopted("s")).toEqual([]);
  shelf.forbid(10_000);
  expect(shelf.forbiddenFor()).toBeGreaterThan(9_000);
});

test("a lock keeps others from looking until all see what was taken", async () => {
  vi.useFakeTimers();
  const asked: [string, Promise<void>][] = [];
  const request = (name: string, look: () => Promise<void>) => {
    asked.push([name, look()]);
    return Promise.resolve();
  };
  vi.stubGlobal("navigator", Object.create(navigator, { locks: { value: { request } } }));
  put("polylect.s:1", [0, [parcel("a")]]);
  expect(adopted("s")).toEqual(["a"]);
  let released = false;
  void asked[0]![1].then(() => (released = true));
  await vi.advanceTimersByTimeAsync(400);
  expect(released).toBe(false);
  await vi.advanceTimersByTimeAsync(200);
  expect(released).toBe(true);
  // Nothing found, nothing to wait for.
  adopted("s");
  await asked[1]![1];
  vi.useRealTimers();
});
