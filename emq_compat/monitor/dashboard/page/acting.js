// What somebody does: it is asked for first where it can't be taken back, and what came of it is told.

import { request } from "./asking.js";
import { $, button, h, rest, say } from "./elements.js";

export function tell(text, bad = false) {
  const box = h("div", { class: bad ? "bad" : "" }, h("span", {}, text));
  const close = () => {
    const focused = box.contains(document.activeElement);
    box.remove();
    if (focused) ($("told").querySelector("button") ?? $("main")).focus({ preventScroll: true });
  };
  const later = () => setTimeout(() => (box.matches(":hover, :focus-within") ? later() : close()), 6000);
  box.append(button("×", close, { "aria-label": `Dismiss: ${text}` }));
  $("told").append(box);
  while ($("told").childElementCount > 3) $("told").firstElementChild.remove();
  if (!bad) later();
}

export async function act(action, given, control) {
  if (control) rest(control, true);
  try {
    tell((await request(`api/do/${action}`, given)).ok);
    return true;
  } catch (error) {
    tell(error.message, true);
    return false;
  } finally {
    if (control) rest(control, false);
  }
}

let answer = null;

// Asks before something that can't be taken back; `type`: what must be typed first.
export function confirmed({ head, text, yes, type = "", grave = true }) {
  say($("ask-head"), head);
  say($("ask-text"), text);
  say($("ask-yes"), yes);
  say($("ask-wrong"), "");
  $("ask-yes").classList.toggle("grave", grave);
  $("ask-typed").hidden = !type;
  $("ask-name").value = "";
  $("ask-typed").querySelector("label").textContent = `Type ${type} to go on:`;
  $("ask").showModal();
  (type ? $("ask-name") : $("ask").querySelector("[data-close]")).focus();
  return new Promise((resolve) => {
    answer = (typed) => {
      if (typed !== null && type && typed !== type) {
        say($("ask-wrong"), `That is not ${type}.`);
        return;
      }
      answer = null;
      $("ask").close();
      resolve(typed === null ? null : { typed });
    };
  });
}

$("ask-form").addEventListener("submit", (event) => {
  event.preventDefault();
  answer?.($("ask-name").value);
});
$("ask").addEventListener("close", () => answer?.(null));
for (const dialog of document.querySelectorAll("dialog")) {
  for (const close of dialog.querySelectorAll("[data-close]")) close.addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
}
