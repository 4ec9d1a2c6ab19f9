// Schedules.

import { $, h, keyed, say } from "./elements.js";
import { ago, ahead, clock, count, now } from "./words.js";

export function showSchedules(entries) {
  $("schedules-empty").hidden = entries.length > 0;
  $("schedule-table").hidden = !entries.length;
  say($("n-schedules"), count(entries.length));
  keyed($("schedule-table").tBodies[0], entries, (entry) => `${entry.by} ${entry.name}`, makeSchedule, fillSchedule);
}

function makeSchedule(entry) {
  const next = h("td", { class: "n", "data-label": "Next" });
  const last = h("td", { class: "n", "data-label": "Last" });
  const runs = h("td", { class: "n", "data-label": "Runs" });
  const row = h(
    "tr",
    { "data-schedule": entry.name },
    h("td", {}, h("span", { class: "name" }, entry.name), entry.task === entry.name ? null : h("small", {}, entry.task)),
    h("td", { class: "wide", "data-label": "When" }, entry.when),
    next,
    last,
    runs,
    h("td", { "data-label": "Sent by" }, entry.by),
  );
  row.parts = { next, last, runs };
  return row;
}

function fillSchedule(row, entry) {
  const { next, last, runs } = row.parts;
  say(next, entry.next === null ? "after its next run" : ahead(entry.next));
  next.title = entry.next === null ? "Its beat has not said so since the broker was started" : clock(entry.next);
  next.classList.toggle("zero", entry.next === null);
  next.classList.toggle("late", entry.next !== null && entry.next < now() - 60);
  say(last, entry.last === null ? "–" : ago(entry.last));
  if (entry.last !== null) last.title = clock(entry.last);
  say(runs, entry.runs === null ? "–" : count(entry.runs));
}
