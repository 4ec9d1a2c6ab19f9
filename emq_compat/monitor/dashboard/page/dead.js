// Dead letters.

import { act, confirmed, tell } from "./acting.js";
import { request } from "./asking.js";
import { $, button, h, idle, keyed, rest, say } from "./elements.js";
import { state } from "./state.js";
import { openTask } from "./task.js";
import { ago, clock, count, plural } from "./words.js";

let olderDead = [];

export function showDead(rows) {
  const total = state.sections.totals?.dead ?? rows.length;
  const known = new Set(rows.map((row) => row.key));
  const last = rows.length ? rows[rows.length - 1].key : 0;
  olderDead = rows.length ? olderDead.filter((row) => row.key > last && !known.has(row.key)) : [];
  const all = [...rows, ...olderDead];
  $("dead-empty").hidden = all.length > 0;
  $("dead-table").hidden = !all.length;
  $("dead-all").hidden = all.length < 2 || state.session?.read_only;
  $("dead-more").hidden = all.length >= total;
  say($("dead-more").firstElementChild, `${count(total - all.length)} more.`);
  keyed($("dead-table").tBodies[0], all, (row) => row.key, makeDead, (element, row) => say(element.since, ago(row.at)));
}

function makeDead(letter) {
  const { key, task, task_id: id, reason, queue, at } = letter;
  const named = `${task || "a plain job"} ${id || key}`;
  const requeue = button("Requeue", () => act("requeue", { key }, requeue), { "aria-label": `Requeue ${named}` });
  const drop = button("Drop…", async () => {
    const yes = await confirmed({ head: "Drop this dead letter?", text: `${task || "The message"} ${id} is gone for good then.`, yes: "Drop" });
    if (yes) act("drop", { key }, drop);
  }, { class: "grave", "aria-label": `Drop ${named}` });
  const since = h("td", { class: "n", "data-label": "Since", title: clock(at) });
  const more = h("small", { class: "id" });
  const open = id
    ? button(task || "a plain job", () => openTask(id), { class: "link name", title: id })
    : h("span", { class: "name" }, task || "a plain job");
  const row = h(
    "tr",
    { "data-dead": key },
    h("td", {}, open, more),
    h("td", { class: "wide", "data-label": "Why" }, reason),
    h("td", { "data-label": "Queue" }, queue),
    since,
    h("td", { class: "acts" }, h("div", { class: "do" }, requeue, drop)),
  );
  say(more, id);
  row.since = since;
  if (state.session?.args) {
    request(`api/dead/${key}`).then((told) => more.append(h("span", {}, ` (${told.arguments})`)), () => {});
  }
  return row;
}

$("dead-more").querySelector("button").addEventListener("click", async (event) => {
  const rows = state.sections.dead ?? [];
  const shown = [...rows, ...olderDead];
  if (!idle(event.target)) return;
  rest(event.target, true);
  try {
    olderDead.push(...(await request(`api/dead?after=${shown[shown.length - 1].key}`)));
    showDead(rows);
  } catch (error) {
    tell(error.message, true);
  }
  rest(event.target, false);
});

document.querySelector('[data-do="requeue-all"]').addEventListener("click", async (event) => {
  const total = state.sections.totals.dead;
  if (await confirmed({ head: "Requeue all dead letters?", text: `${plural(total, "message")} go back into their queues, to be run again.`, yes: "Requeue all", grave: false }))
    act("requeue", { all: true }, event.target);
});
document.querySelector('[data-do="drop-all"]').addEventListener("click", async (event) => {
  const total = state.sections.totals.dead;
  if (await confirmed({ head: "Drop all dead letters?", text: `${plural(total, "message")} are gone for good then.`, yes: "Drop all", type: "drop all" }))
    act("drop", { all: true }, event.target);
});
