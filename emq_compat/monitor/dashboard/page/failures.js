// Failures, by task and exception.

import { $, button, h, keyed, say } from "./elements.js";
import { openTask } from "./task.js";
import { ago, clock, count } from "./words.js";

export function showFailures(groups) {
  $("failures-empty").hidden = groups.length > 0;
  say($("n-failures"), groups.length ? count(groups.length) : "0");
  keyed($("failure-list"), groups, (group) => `${group.task}\n${group.exception}`, makeFailure, fillFailure);
}

// Tells anew how long ago each was.
export function tickFailures() {
  for (const row of $("failure-list").children) say(row.parts.when, ago(row.parts.at));
}

function makeFailure(group) {
  const parts = { count: h("span", { class: "count" }), message: h("span", { class: "message" }), when: h("span", { class: "when" }), trace: h("pre", { tabindex: "0", role: "region", "aria-label": `Traceback of ${group.exception} in ${group.task}` }), ids: h("ul", { class: "ids" }), since: h("p", { class: "hint" }) };
  const details = h(
    "details",
    { "data-failure": group.task },
    h("summary", {}, parts.count, h("span", { class: "what" }, h("b", {}, group.exception), ` in ${group.task || "a plain job"}`, parts.message), parts.when),
    h("div", { class: "body" }, parts.since, parts.trace, h("p", { class: "hint" }, "Last tasks"), parts.ids),
  );
  details.parts = parts;
  return details;
}

function fillFailure(details, group) {
  const { parts } = details;
  parts.at = group.last_at;
  say(parts.count, `${count(group.count)}${group.more ? "+" : ""}`);
  parts.count.title = group.more ? "At least so many: more came at once than are kept" : "";
  say(parts.message, group.message.split("\n")[0] || "(no message)");
  say(parts.when, ago(group.last_at));
  say(parts.since, `First seen ${clock(group.first_at)}, last ${clock(group.last_at)}.`);
  // What is being read stays as it is.
  if (!details.open || !parts.trace.textContent) {
    say(parts.trace, group.traceback || group.message || "There is no traceback.");
    parts.ids.replaceChildren(
      ...group.samples.map((one) => h("li", {}, button(one.id, () => openTask(one.id), { class: "link id" }), h("span", {}, clock(one.at)))),
    );
  }
}
