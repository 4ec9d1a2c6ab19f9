// Elements. What comes from the broker is only ever put into the page as text.

import { count } from "./words.js";

export const $ = (id) => document.getElementById(id);

export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [event, handler] of Object.entries(value)) element.addEventListener(event, handler);
    else if (name === "text") element.textContent = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

export function say(element, text) {
  if (element.textContent !== String(text)) element.textContent = text;
}

export function button(text, does, attributes = {}) {
  const pressed = (event) => idle(event.currentTarget) && does(event);
  return h("button", { type: "button", ...attributes, on: { click: pressed } }, text);
}

// Whether a button can be pressed now. One that can't keeps the focus, which `disabled` would take from it.
export function idle(control) {
  return control.getAttribute("aria-disabled") !== "true";
}

export function rest(control, rests) {
  if (rests) control.setAttribute("aria-disabled", "true");
  else control.removeAttribute("aria-disabled");
}

const FOCUSABLE = "a[href], button, input, summary, [tabindex]";

// Puts other children into an element. What is the same as before stays the element that it was, so that a press
// under way reaches it; what had the focus and goes gives it to what is the same among the new ones, or else to
// `otherwise`; what was opened stays open. What a button does has to stand in its attributes, or in its text if it
// has no title: with one it stays when its text becomes another, as a task's does whose name is known only now.
export function redraw(parent, children, otherwise) {
  const same = (element) => `${element.tagName} ${element.title} ${element.textContent}`;
  const focused = parent.contains(document.activeElement) ? document.activeElement : null;
  const place = focused && [...parent.querySelectorAll(FOCUSABLE)].filter((one) => same(one) === same(focused)).indexOf(focused);
  const open = new Set([...parent.querySelectorAll("details[open] > summary")].map(same));
  merge(parent, h("div", {}, ...children));
  for (const summary of parent.querySelectorAll("summary")) if (open.has(same(summary))) summary.parentElement.open = true;
  if (!focused || focused.isConnected) return;
  const found = [...parent.querySelectorAll(FOCUSABLE)].filter((one) => same(one) === same(focused));
  (found[place] ?? found[0] ?? otherwise).focus({ preventScroll: true });
}

function merge(into, wanted) {
  const old = [...into.childNodes];
  const fresh = [...wanted.childNodes];
  for (const [place, child] of fresh.entries()) {
    const there = old[place];
    if (!there) into.append(child);
    else if (there.isEqualNode(child)) continue;
    else if (there.matches?.(":not(button), button[title]") && there.cloneNode().isEqualNode(child.cloneNode())) merge(there, child);
    else there.replaceWith(child);
  }
  for (const gone of old.slice(fresh.length)) gone.remove();
}

// Takes an element away; the focus, if it was there, goes to the same place in a neighbour, or else to the
// heading of its section.
function leave(element) {
  if (element.contains(document.activeElement)) {
    const neighbour = element.nextElementSibling ?? element.previousElementSibling;
    const place = [...element.querySelectorAll(FOCUSABLE)].indexOf(document.activeElement);
    const found = neighbour?.querySelectorAll(FOCUSABLE)[place] ?? element.closest("section")?.querySelector("h2");
    found?.focus({ preventScroll: true });
  }
  element.remove();
}

export function tag(text, kind = "") {
  return h("span", { class: `tag ${kind}` }, text);
}

export function number(element, value, text = count(value)) {
  say(element, text);
  element.classList.toggle("zero", !value);
}

// Tags behind a name, as [word, kind]; they are made anew only when they are others.
export function retag(element, tags) {
  const text = tags.map(([word]) => word).join();
  if (element.dataset.tags === text) return;
  element.dataset.tags = text;
  element.replaceChildren(...tags.map(([word, kind]) => tag(word, kind)));
}

// Rows that stay where they are: each is made once under its key, and filled again with each update.
// While somebody reads them (the pointer or the focus is there, or one is open) none moves: new ones come last.

const made = new WeakMap();

// `settled`: put them in order all the same, since somebody has asked for others.
export function keyed(parent, rows, key, make, fill, settled = false) {
  if (!made.has(parent)) made.set(parent, new Map());
  const known = made.get(parent);
  const wanted = new Set();
  for (const row of rows) {
    const name = key(row);
    wanted.add(name);
    let element = known.get(name);
    if (!element) {
      element = make(row);
      known.set(name, element);
      parent.append(element);
    }
    fill(element, row);
  }
  for (const [name, element] of known) {
    if (!wanted.has(name)) {
      known.delete(name);
      leave(element);
    }
  }
  const section = parent.closest("section") ?? parent;
  if (!settled && (section.matches(":hover, :focus-within") || parent.querySelector("details[open]"))) return;
  let place = parent.firstElementChild;
  for (const row of rows) {
    const element = known.get(key(row));
    if (element === place) place = place.nextElementSibling;
    else parent.insertBefore(element, place);
  }
}
