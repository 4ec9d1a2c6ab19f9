// Workflows: chains, groups and chords, as far as steps of theirs were seen.

import { $, button, h, keyed, number, say } from "./elements.js";
import { openTask } from "./task.js";
import { ago, clock, count } from "./words.js";

const STATES = {
  runs: ["▸ runs", ""],
  waits: ["· waits", ""],
  done: ["✓ done", "ok"],
  failed: ["✕ failed", "bad"],
  unknown: ["? out of sight", ""],
};
const NONE = "Chains, groups and chords are here while a step of theirs runs or waits in front, and when it has ended.";

// `rows`: null where the broker is older.
export function showWorkflows(rows) {
  const all = rows ?? [];
  $("workflows-empty").hidden = all.length > 0;
  $("workflow-table").hidden = $("workflows-more").hidden = !all.length;
  say($("workflows-why"), rows ? NONE : "This broker is older than the dashboard, and doesn't tell of them.");
  say($("n-workflows"), count(all.length));
  keyed($("workflow-table").tBodies[0], all, (row) => row.id, makeWorkflow, fillWorkflow);
}

// Tells anew how long ago each was seen.
export function tickWorkflows() {
  for (const row of $("workflow-table").tBodies[0].children) say(row.parts.seen, ago(row.parts.at));
}

function makeWorkflow(workflow) {
  const cell = (label, name = "n") => h("td", { class: name, "data-label": label });
  const parts = {
    open: button("", () => openTask(parts.opens), { class: "link name" }),
    about: h("small"),
    state: h("span", { class: "tag state" }),
    running: cell("Running"),
    waiting: cell("Waiting"),
    ended: cell("Ended"),
    seen: cell("Last seen"),
  };
  const row = h(
    "tr",
    { "data-workflow": workflow.id },
    h("td", {}, parts.open, parts.about),
    h("td", { "data-label": "State" }, parts.state),
    parts.running,
    parts.waiting,
    parts.ended,
    parts.seen,
  );
  row.parts = parts;
  return row;
}

function fillWorkflow(row, workflow) {
  const { parts } = row;
  const [first, ...others] = workflow.tasks;
  parts.opens = workflow.opens;
  parts.at = workflow.last_at;
  say(parts.open, first ?? `task …${workflow.id.slice(-12)}`);
  parts.open.title = workflow.id;
  say(parts.about, [workflow.kind, others.length ? `with ${others.join(", ")}` : ""].filter(Boolean).join(" "));
  const [text, kind] = STATES[workflow.state];
  say(parts.state, text);
  parts.state.className = `tag state ${kind}`;
  number(parts.running, workflow.running);
  number(parts.waiting, workflow.waiting);
  const ended = `${count(workflow.ended)}${workflow.of === null ? (workflow.more ? "+" : "") : ` of ${count(workflow.of)}`}`;
  number(parts.ended, workflow.ended, workflow.failed ? `${ended} (${count(workflow.failed)} failed)` : ended);
  say(parts.seen, ago(workflow.last_at));
  parts.seen.title = `First seen ${clock(workflow.first_at)}, last ${clock(workflow.last_at)}`;
}
