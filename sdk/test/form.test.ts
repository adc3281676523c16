import { expect, test } from "vitest";
import { readForm } from "../src/form";

function form(html: string): HTMLFormElement {
  document.body.innerHTML = html;
  return document.querySelector("form")!;
}

test("names once, in order; of no other form, and no values", () => {
  const told = readForm(
    form(`<form id="f"><input name="a" value="secret"><input name="b" type="radio"><input name="b" type="radio">
    <select name="c"><option>secret</option></select><textarea name="d">secret</textarea><input value="secret">
    <input type="password" name="e" value="secret"><input type="hidden" name="g" value="secret"></form>
    <input name="h" form="f" value="secret"><form><input name="i"></form>`),
  );
  expect(told).toEqual({ elementId: "f", fields: ["a", "b", "c", "d", "e", "g", "h"] });
  expect(JSON.stringify(told)).not.toContain("secret");
});

test("fields named like parts of a form don't hide them", () => {
  const told = readForm(form('<form id="f"><input name="id"><input name="elements"><input name="getAttribute"></form>'));
  expect(told).toEqual({ elementId: "f", fields: ["id", "elements", "getAttribute"] });
});

test("so many, and so long, at most", () => {
  const inputs = Array.from({ length: 80 }, (_, n) => `<input name="${n}${"x".repeat(300)}">`);
  const { fields } = readForm(form(`<form>${inputs.join("")}</form>`)) as { fields: string[] };
  expect(fields.length).toBe(50);
  expect(fields.every((name) => name.length === 100)).toBe(true);
});

test("a name that many fields share is one of them", () => {
  const choices = '<input type="radio" name="a">'.repeat(60);
  expect(readForm(form(`<form>${choices}<input name="b"></form>`))["fields"]).toEqual(["a", "b"]);
});

test("an empty form", () => {
  expect(readForm(form("<form></form>"))).toEqual({ elementId: undefined, fields: [] });
});
