/** What of a form is told: the names of its fields; of what somebody typed or chose, or a field hides, nothing. */

import type { Fields } from "./page";

const MAX_FIELDS = 50;
const MAX_UNITS = 100;

/** Describe a form that is submitted. */
export function readForm(form: HTMLFormElement): Fields {
  // Not form.elements, form.id, nor any method of the form's: a field of that name would stand in its place.
  const names = [...document.querySelectorAll<HTMLInputElement>("input,select,textarea")]
    .filter((field) => field.form === form && field.name)
    .map((field) => field.name.slice(0, MAX_UNITS));
  return {
    elementId: Element.prototype.getAttribute.call(form, "id") ?? undefined,
    fields: [...new Set(names)].slice(0, MAX_FIELDS),
  };
}
