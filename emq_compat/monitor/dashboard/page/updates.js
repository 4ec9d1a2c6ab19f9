// What the dashboard tells of: each section is shown by its module.

import { showDead } from "./dead.js";
import { $, say } from "./elements.js";
import { showFailures, tickFailures } from "./failures.js";
import { showQueues } from "./queues.js";
import { showSchedules } from "./schedules.js";
import { add } from "./sparks.js";
import { state } from "./state.js";
import { showTotals, showVerdict } from "./verdict.js";
import { span } from "./words.js";
import { showWorkers } from "./workers.js";
import { showWorkflows, tickWorkflows } from "./workflows.js";

const SHOW = { verdict: showVerdict, totals: showTotals, queues: showQueues, workers: showWorkers, failures: showFailures, dead: showDead, schedules: showSchedules, workflows: showWorkflows };

export function update(told) {
  if (told.broker) {
    state.skew = told.broker.at - Date.now() / 1000;
    say($("foot"), `emq-compat ${told.broker.version ?? ""} · broker up ${span(told.broker.uptime_s)} · rates are means over 5 s`);
  }
  if (told.sparks) state.sparks = told.sparks;
  else if (told.queues) {
    const points = {};
    for (const queue of told.queues) points[queue.name] = add(state.sparks.queues[queue.name] ?? [], queue.point);
    state.sparks.queues = points;
    const totals = told.totals;
    if (totals) for (const name of ["finished", "failed"]) add((state.sparks.totals[name] ??= []), totals[`${name}_s`]);
  }
  Object.assign(state.sections, told);
  state.heard = performance.now();
  for (const [name, show] of Object.entries(SHOW)) if (name in told) show(told[name]);
  // What only time changes.
  if (!("failures" in told)) tickFailures();
  if (!("workflows" in told)) tickWorkflows();
  if (!("dead" in told) && state.sections.dead) showDead(state.sections.dead);
  if (!("schedules" in told) && state.sections.schedules) showSchedules(state.sections.schedules);
  freshness();
}

export function freshness() {
  const late = (performance.now() - state.heard) / 1000;
  const away = state.sections.verdict?.away;
  const old = state.heard > 0 && late > 5;
  $("fresh").classList.toggle("old", old);
  if (old) say($("fresh"), `The dashboard is silent for ${span(late)}`);
  else if (away) say($("fresh"), state.sections.queues ? "what stands below is as it was" : "nothing has been seen of it yet");
  else say($("fresh"), state.heard ? "live" : "");
}
