// Workers, and what their children run.

import { act } from "./acting.js";
import { request, watch } from "./asking.js";
import { $, button, h, keyed, redraw, retag, say, tag } from "./elements.js";
import { list } from "./lists.js";
import { state } from "./state.js";
import { openTask, terminate } from "./task.js";
import { count, now, span } from "./words.js";

const shorten = list({
  section: "workers",
  noun: "worker",
  name: (worker) => worker.node,
  urgent: (worker) => (worker.present ? 1 : 0),
  show: (settled) => showWorkers(state.sections.workers, settled),
});

export function showWorkers(workers, settled = false) {
  const shown = shorten(workers, workers.length);
  $("workers-empty").hidden = workers.length > 0;
  keyed($("worker-list"), shown, (worker) => worker.name, makeWorker, fillWorker, settled);
}

function makeWorker(worker) {
  const name = worker.name;
  const parts = {
    who: h("span", { class: "name" }),
    tags: h("span"),
    about: h("small"),
    bar: h("i"),
    slots: h("span"),
    running: h("ul", { class: "running" }),
    kids: h("div", { class: "kids" }),
  };
  const fewer = button("−", () => act("shrink", { worker: name }, fewer), { "aria-label": `One slot less on ${worker.node}`, title: "Run one less at once" });
  const more = button("+", () => act("grow", { worker: name }, more), { "aria-label": `One slot more on ${worker.node}`, title: "Run one more at once" });
  parts.stepper = h("span", { class: "stepper acts" }, fewer, more);
  const details = h("details", {}, h("summary", {}, "Children", h("span", { class: "unseen" }, ` of ${worker.node}`)), parts.kids);
  details.addEventListener("toggle", () => details.open && showKids(details, name, parts.kids));
  parts.details = details;
  const card = h(
    "div",
    { "data-worker": worker.node },
    h(
      "div",
      { class: "worker-top" },
      h("div", { class: "who" }, h("div", {}, parts.who, parts.tags), parts.about),
      h("div", { class: "slots" }, h("span", { class: "bar" }, parts.bar), parts.slots, parts.stepper),
    ),
    parts.running,
    details,
  );
  card.parts = parts;
  return card;
}

function fillWorker(card, worker) {
  const { parts } = card;
  say(parts.who, worker.node);
  const tags = [];
  if (!worker.present) tags.push(["not connected", "bad"]);
  else if (worker.leaving) tags.push(["leaving", "warn"]);
  if (worker.stock) tags.push(["stock eventmq", ""]);
  retag(parts.tags, tags);
  const about = [worker.hostname, worker.pid ? `pid ${worker.pid}` : "", worker.queues.join(", "), `${count(worker.finished)} done`];
  if (worker.silent_s > 6) about.push(`silent for ${span(worker.silent_s)}`);
  say(parts.about, about.filter(Boolean).join(" · "));
  const slots = worker.slots || worker.busy;
  parts.bar.style.width = `${slots ? Math.min(100, (100 * worker.busy) / slots) : 0}%`;
  say(parts.slots, worker.slots ? `${worker.busy} of ${worker.slots} busy` : `${worker.busy} running`);
  parts.stepper.hidden = worker.stock || !worker.slots;
  parts.details.hidden = worker.stock;
  keyed(parts.running, worker.running.slice(0, 20), (task) => `${task.task_id} ${task.attempt}`, makeRunning, (row, task) => {
    say(row.for_, span(task.for_s));
    row.hidden = task.for_s < 1 && worker.running.length > 0 && !row.matches(":hover, :focus-within");
  });
}

function makeRunning({ task, task_id: id, queue, attempt }) {
  const row = h(
    "li",
    {},
    h("span", {}, button(task || id, () => openTask(id), { class: "link", title: id }), attempt > 1 ? tag(`attempt ${attempt}`, "warn") : null, h("span", { class: "unseen" }, ` in ${queue}`)),
    h("span", { class: "for" }),
    h("span", { class: "do acts" }, button("Terminate…", () => terminate(id, task), { class: "grave", "aria-label": `Terminate ${task} ${id}` })),
  );
  row.for_ = row.querySelector(".for");
  return row;
}

function showKids(details, name, into) {
  if (!into.childElementCount) into.append(h("p", { class: "hint" }, "Asking the worker …"));
  watch(
    details,
    () => details.open && details.isConnected,
    async () => {
      try {
        const told = await request(`api/worker?name=${encodeURIComponent(name)}`);
        drawKids(into, told, details.firstElementChild);
      } catch (error) {
        into.replaceChildren(h("p", { class: "wrong" }, error.message));
      }
    },
  );
}

function drawKids(into, told, summary) {
  const rows = told.children.map((child) =>
    h(
      "tr",
      {},
      h("td", {}, `pid ${child.pid}`),
      h("td", {}, child.task ? button(child.task, () => openTask(child.task_id), { class: "link", title: child.task_id }) : h("span", { class: "zero" }, "idle"), child.arguments ? h("small", { class: "id" }, child.arguments) : null),
      h("td", { class: "n" }, child.since ? span(now() - child.since) : "–"),
      h("td", { class: "n" }, count(child.done)),
    ),
  );
  const facts = [`Pool ${told.pool}`, told.memory_kb ? `${Math.round(told.memory_kb / 1024)} MB at most in its parent` : "", told.uptime_s === null ? "" : `up ${span(told.uptime_s)}`, told.autoscaled ? "scales itself" : ""];
  const head = (text, name = "") => h("th", { scope: "col", class: name }, text);
  const table = () => h("table", {}, h("thead", {}, h("tr", {}, head("Child"), head("Runs"), head("For", "n"), head("Done", "n"))), h("tbody", {}, ...rows));
  const none = "It has no child processes: its pool runs tasks in threads, or in itself.";
  redraw(into, [h("p", { class: "hint" }, facts.filter(Boolean).join(" · ")), rows.length ? table() : h("p", {}, none)], summary);
}
