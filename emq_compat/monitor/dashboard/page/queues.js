// Queues.

import { act, confirmed } from "./acting.js";
import { $, button, h, keyed, number, rest, retag, say } from "./elements.js";
import { list } from "./lists.js";
import { draw, spark } from "./sparks.js";
import { state } from "./state.js";
import { count, plural, rate, span } from "./words.js";

const orphaned = (queue) => queue.waiting > 0 && !queue.workers && !queue.paused;
const late = (queue) => queue.oldest_s >= 60 && queue.waiting > 0;
const shorten = list({
  section: "queues",
  noun: "queue",
  name: (queue) => queue.name,
  urgent: (queue) => (orphaned(queue) ? 0 : queue.paused ? 1 : late(queue) ? 2 : 3),
  show: (settled) => showQueues(state.sections.queues, settled),
});

export function showQueues(queues, settled = false) {
  const shown = shorten(queues, state.sections.totals?.queues ?? queues.length);
  $("queue-table").hidden = !shown.length;
  $("queues-empty").hidden = queues.length > 0;
  keyed($("queue-table").tBodies[0], shown, (queue) => queue.name, makeQueue, fillQueue, settled);
}

function makeQueue({ name }) {
  const cells = {};
  const cell = (key, label, attributes = {}) =>
    (cells[key] = h("td", { class: "n", ...(label ? { "data-label": label } : {}), ...attributes }));
  cells.name = h("td", {}, h("span", { class: "name" }, name), (cells.tags = h("span")));
  cells.spark = spark();
  cells.pause = button("Pause", () => {
    const paused = cells.paused;
    act(paused ? "resume" : "pause", { queue: name }, cells.pause);
  });
  cells.purge = button("Purge…", async () => {
    const yes = await confirmed({
      head: `Purge ${name}?`,
      text: `All ${plural(cells.total, "message")} that wait in it are dropped for good. What workers hold already goes on.`,
      yes: "Purge",
      type: name,
    });
    if (yes) act("purge", { queue: name, confirmed: yes.typed }, cells.purge);
  });
  cells.purge.setAttribute("aria-label", `Purge ${name}`);
  const row = h(
    "tr",
    { "data-queue": name },
    cells.name,
    cell("waiting", "Waiting"),
    cell("oldest", "Oldest"),
    cell("running", "Running"),
    cell("in", "In"),
    cell("out", "Out"),
    h("td", { class: "wide", "data-label": "Last 90 s" }, cells.spark),
    cell("workers", "Workers"),
    h("td", { class: "acts" }, h("div", { class: "do" }, cells.pause, cells.purge)),
  );
  cells.waiting.append((cells.waitingN = h("span")), (cells.waitingMore = h("small")));
  row.cells_ = cells;
  return row;
}

function fillQueue(row, queue) {
  const cells = row.cells_;
  cells.paused = queue.paused;
  cells.total = queue.waiting + queue.delayed + queue.held + queue.parked;
  number(cells.waitingN, queue.waiting);
  const more = [];
  if (queue.delayed) more.push(`${count(queue.delayed)} later`);
  if (queue.held) more.push(`${count(queue.held)} held`);
  if (queue.parked) more.push(`${count(queue.parked)} parked`);
  say(cells.waitingMore, more.join(", "));
  say(cells.oldest, queue.oldest_s === null ? "–" : span(queue.oldest_s));
  cells.oldest.classList.toggle("zero", queue.oldest_s === null);
  cells.oldest.classList.toggle("late", late(queue));
  number(cells.running, queue.in_flight);
  number(cells.in, queue.in_s, `${rate(queue.in_s)}/s`);
  number(cells.out, queue.out_s, `${rate(queue.out_s)}/s`);
  number(cells.workers, queue.workers);
  const tags = [];
  if (queue.paused) tags.push(["paused", "warn"]);
  else if (orphaned(queue)) tags.push(["no worker", "bad"]);
  retag(cells.tags, tags);
  say(cells.pause, queue.paused ? "Resume" : "Pause");
  cells.pause.setAttribute("aria-label", `${queue.paused ? "Resume" : "Pause"} ${queue.name}`);
  rest(cells.purge, !cells.total);
  draw(cells.spark, state.sparks.queues[queue.name] ?? [], `${queue.name}: ${rate(queue.out_s)} a second handed out`);
}
