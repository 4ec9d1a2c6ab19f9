// The dashboard's page. What comes from the broker is only ever put into the page as text.

const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const POINTS = 90;

const state = {
  session: null, // what the dashboard lets us do, and the secret that goes with what changes something
  sections: {}, // as the broker was seen last
  sparks: { queues: {}, totals: {} },
  heard: 0, // when the last update came (performance.now)
  skew: 0, // seconds that the broker's clock is ahead of this machine's
};

// Elements

function h(tag, attributes = {}, ...children) {
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

function say(element, text) {
  if (element.textContent !== String(text)) element.textContent = text;
}

function button(text, does, attributes = {}) {
  return h("button", { type: "button", ...attributes, on: { click: does } }, text);
}

function tag(text, kind = "") {
  return h("span", { class: `tag ${kind}` }, text);
}

// Rows that stay where they are: each is made once under its key, and filled again with each update.
// While somebody reads them (the pointer or the focus is there, or one is open) none moves: new ones come last.

const made = new WeakMap();

function keyed(parent, rows, key, make, fill) {
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
      element.remove();
    }
  }
  const section = parent.closest("section") ?? parent;
  if (section.matches(":hover, :focus-within") || parent.querySelector("details[open]")) return;
  let place = parent.firstElementChild;
  for (const row of rows) {
    const element = known.get(key(row));
    if (element === place) place = place.nextElementSibling;
    else parent.insertBefore(element, place);
  }
}

// Words

const whole = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

function count(number) {
  return number >= 1e6 ? short.format(number) : whole.format(number);
}

function rate(number) {
  if (!number) return "0";
  return number < 10 ? number.toFixed(1) : count(Math.round(number));
}

function plural(number, noun, nouns = `${noun}s`) {
  return `${count(number)} ${number === 1 ? noun : nouns}`;
}

function span(seconds) {
  if (seconds < 0.95) return seconds < 0.05 ? "0 s" : `${seconds.toFixed(1)} s`;
  const s = Math.round(seconds);
  if (s < 120) return `${s} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min`;
  if (s < 172800) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86400)} d`;
}

function now() {
  return Date.now() / 1000 + state.skew;
}

function ago(at) {
  const seconds = now() - at;
  return seconds < 2 ? "just now" : `${span(seconds)} ago`;
}

function ahead(at) {
  const seconds = at - now();
  if (seconds > 0) return `in ${span(seconds)}`;
  return seconds > -5 ? "now" : `due ${span(-seconds)} ago`;
}

function clock(at) {
  return new Date(at * 1000).toLocaleString();
}

function number(element, value, text = count(value)) {
  say(element, text);
  element.classList.toggle("zero", !value);
}

// Sparklines

function spark() {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "spark");
  svg.setAttribute("viewBox", `0 0 ${POINTS} 24`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  for (const name of ["area", "line"]) {
    const line = document.createElementNS(SVG, "polyline");
    line.setAttribute("class", name);
    svg.append(line);
  }
  return svg;
}

function draw(svg, points, label = "") {
  const most = Math.max(1, ...points);
  const first = POINTS - points.length;
  const line = points.map((point, i) => `${first + i},${(22.5 - (21 * point) / most).toFixed(1)}`).join(" ");
  svg.querySelector(".line").setAttribute("points", line);
  svg.querySelector(".area").setAttribute("points", points.length ? `${first},24 ${line} ${POINTS - 1},24` : "");
  if (label) svg.setAttribute("aria-label", label);
}

function add(points, point) {
  points.push(point);
  if (points.length > POINTS) points.splice(0, points.length - POINTS);
  return points;
}

// Asking the dashboard

async function request(path, given) {
  const options = { headers: {}, credentials: "same-origin" };
  if (given !== undefined) {
    options.method = "POST";
    options.headers["Content-Type"] = "application/json";
    if (state.session) options.headers["X-Emq-Secret"] = state.session.secret;
    options.body = JSON.stringify(given);
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The dashboard doesn't answer.");
  }
  const answer = await response.json().catch(() => ({}));
  if (response.status === 401) logIn();
  if (!response.ok) throw new Error(answer.error ?? `The dashboard answered ${response.status}.`);
  return answer;
}

function tell(text, bad = false) {
  const box = h("div", { class: bad ? "bad" : "" }, h("span", {}, text));
  box.append(button("×", () => box.remove(), { "aria-label": "Dismiss" }));
  $("told").append(box);
  while ($("told").childElementCount > 3) $("told").firstElementChild.remove();
  if (!bad) setTimeout(() => box.remove(), 6000);
}

async function act(action, given, control) {
  if (control) control.disabled = true;
  try {
    tell((await request(`api/do/${action}`, given)).ok);
    return true;
  } catch (error) {
    tell(error.message, true);
    return false;
  } finally {
    if (control) control.disabled = false;
  }
}

let answer = null;

// Asks before something that can't be taken back; `type`: what must be typed first.
function confirmed({ head, text, yes, type = "", grave = true }) {
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

// The first look: is all well?

const SIGNS = { ok: "✓", warn: "!", bad: "✕" };

function showVerdict({ level, text, reasons }) {
  $("verdict").dataset.level = level;
  say($("verdict-mark"), SIGNS[level] ?? "·");
  say($("verdict-text"), text);
  document.title = `${level === "ok" ? "" : `${SIGNS[level]} `}${text} · emq-compat`;
  keyed(
    $("reasons"),
    reasons.slice(0, 8),
    (reason) => `${reason.section} ${reason.level} ${reason.text.replace(/\d[\d,]*( \w+)?/g, "#")}`,
    (reason) => h("li", { "data-level": reason.level, "data-sign": SIGNS[reason.level] }, h("a", { href: `#${reason.section}` })),
    (element, reason) => say(element.firstChild, reason.text),
  );
  const worst = {};
  for (const reason of reasons) if (worst[reason.section] !== "bad") worst[reason.section] = reason.level;
  for (const link of document.querySelectorAll(".sections a")) link.className = worst[link.hash.slice(1)] ?? "";
}

function showTotals(totals) {
  number($("t-waiting"), totals.waiting);
  const later = [];
  if (totals.delayed) later.push(`${count(totals.delayed)} for later`);
  if (totals.held) later.push(`${count(totals.held)} held`);
  say($("t-waiting-more"), later.join(", "));
  number($("t-running"), totals.busy);
  say($("t-running-more"), totals.slots ? `of ${plural(totals.slots, "slot")}` : "");
  number($("t-done"), totals.finished_s, rate(totals.finished_s));
  number($("t-failed"), totals.failed_s, rate(totals.failed_s));
  $("t-failed-box").classList.toggle("fails", totals.failed_s > 0);
  draw($("t-done-spark"), state.sparks.totals.finished ?? []);
  draw($("t-failed-spark"), state.sparks.totals.failed ?? []);
  say($("n-queues"), count(totals.queues));
  say($("n-workers"), count(totals.workers));
  say($("n-dead"), count(totals.dead));
}

// Queues

function showQueues(queues) {
  $("queue-table").hidden = !queues.length;
  $("queues-empty").hidden = queues.length > 0;
  const total = state.sections.totals?.queues ?? queues.length;
  $("queues-more").hidden = total <= queues.length;
  say($("queues-more"), `And ${plural(total - queues.length, "more queue")} with less in them.`);
  const sorted = [...queues].sort((a, b) => a.name.localeCompare(b.name));
  keyed($("queue-table").tBodies[0], sorted, (queue) => queue.name, makeQueue, fillQueue);
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
    h("td", { class: "wide" }, cells.spark),
    cell("workers", "Workers"),
    h("td", { class: "acts" }, h("div", { class: "do" }, cells.pause, cells.purge)),
  );
  for (const key of ["waiting"]) cells[key].append((cells[`${key}N`] = h("span")), (cells[`${key}More`] = h("small")));
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
  cells.oldest.classList.toggle("late", queue.oldest_s >= 60 && queue.waiting > 0);
  number(cells.running, queue.in_flight);
  number(cells.in, queue.in_s, `${rate(queue.in_s)}/s`);
  number(cells.out, queue.out_s, `${rate(queue.out_s)}/s`);
  number(cells.workers, queue.workers);
  const tags = [];
  if (queue.paused) tags.push(["paused", "warn"]);
  else if (queue.waiting && !queue.workers) tags.push(["no worker", "bad"]);
  const text = tags.map(([word]) => word).join();
  if (cells.tagText !== text) {
    cells.tagText = text;
    cells.tags.replaceChildren(...tags.map(([word, kind]) => tag(word, kind)));
  }
  say(cells.pause, queue.paused ? "Resume" : "Pause");
  cells.pause.setAttribute("aria-label", `${queue.paused ? "Resume" : "Pause"} ${queue.name}`);
  cells.purge.disabled = !cells.total;
  draw(cells.spark, state.sparks.queues[queue.name] ?? [], `${queue.name}: ${rate(queue.out_s)} a second handed out`);
}

// Workers

function showWorkers(workers) {
  $("workers-empty").hidden = workers.length > 0;
  keyed($("worker-list"), workers, (worker) => worker.name, makeWorker, fillWorker);
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
  const details = h("details", {}, h("summary", {}, "Children"), parts.kids);
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
  const text = tags.map(([word]) => word).join();
  if (parts.tagText !== text) {
    parts.tagText = text;
    parts.tags.replaceChildren(...tags.map(([word, kind]) => tag(word, kind)));
  }
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

async function showKids(details, name, into) {
  if (!into.childElementCount) into.append(h("p", { class: "hint" }, "Asking the worker …"));
  while (details.open && details.isConnected && !document.hidden) {
    try {
      const told = await request(`api/worker?name=${encodeURIComponent(name)}`);
      const rows = told.children.map((child) =>
        h(
          "tr",
          {},
          h("td", {}, `pid ${child.pid}`),
          h("td", {}, child.task ? button(child.task, () => openTask(child.task_id), { class: "link" }) : h("span", { class: "zero" }, "idle"), child.arguments ? h("small", { class: "id" }, child.arguments) : null),
          h("td", { class: "n" }, child.since ? span(now() - child.since) : "–"),
          h("td", { class: "n" }, count(child.done)),
        ),
      );
      const facts = [`Pool ${told.pool}`, told.memory_kb ? `${Math.round(told.memory_kb / 1024)} MB at most in its parent` : "", told.uptime_s === null ? "" : `up ${span(told.uptime_s)}`, told.autoscaled ? "scales itself" : ""];
      const hadFocus = into.contains(document.activeElement);
      if (!hadFocus) {
        into.replaceChildren(
          h("p", { class: "hint" }, facts.filter(Boolean).join(" · ")),
          rows.length
            ? h("table", {}, h("thead", {}, h("tr", {}, h("th", {}, "Child"), h("th", {}, "Runs"), h("th", { class: "n" }, "For"), h("th", { class: "n" }, "Done"))), h("tbody", {}, ...rows))
            : h("p", {}, "It has no child processes: its pool runs tasks in threads, or in itself."),
        );
      }
    } catch (error) {
      into.replaceChildren(h("p", { class: "wrong" }, error.message));
    }
    await new Promise((resolve) => setTimeout(resolve, 2000));
  }
}

// Failures

function showFailures(groups) {
  $("failures-empty").hidden = groups.length > 0;
  say($("n-failures"), groups.length ? count(groups.length) : "0");
  keyed($("failure-list"), groups, (group) => `${group.task}\n${group.exception}`, makeFailure, fillFailure);
}

function makeFailure(group) {
  const parts = { count: h("span", { class: "count" }), message: h("span", { class: "message" }), when: h("span", { class: "when" }), trace: h("pre", { tabindex: "0" }), ids: h("ul", { class: "ids" }), since: h("p", { class: "hint" }) };
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

// Dead letters

let olderDead = [];

function showDead(rows) {
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
  const requeue = button("Requeue", () => act("requeue", { key }, requeue), { "aria-label": `Requeue ${task || id || key}` });
  const drop = button("Drop…", async () => {
    const yes = await confirmed({ head: "Drop this dead letter?", text: `${task || "The message"} ${id} is gone for good then.`, yes: "Drop" });
    if (yes) act("drop", { key }, drop);
  }, { class: "grave", "aria-label": `Drop ${task || id || key}` });
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
  event.target.disabled = true;
  try {
    olderDead.push(...(await request(`api/dead?after=${shown[shown.length - 1].key}`)));
    showDead(rows);
  } catch (error) {
    tell(error.message, true);
  }
  event.target.disabled = false;
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

// Schedules

function showSchedules(entries) {
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

// One task, and the workflow that it belongs to

const STATES = {
  SUCCESS: ["✓ done", "ok"],
  FAILURE: ["✕ failed", "bad"],
  REVOKED: ["⊘ revoked", "warn"],
  RETRY: ["↻ retries", "warn"],
  STARTED: ["▸ runs", ""],
  PENDING: ["· waits", ""],
  UNKNOWN: ["? not known", ""],
};

let looked = 0;

async function openTask(id) {
  const mine = ++looked;
  const body = $("task-body");
  say($("task-head"), "Task");
  body.replaceChildren(h("p", { class: "hint" }, "Looking …"));
  if (!$("task").open) $("task").showModal();
  let shown = "";
  while ($("task").open && mine === looked) {
    try {
      const told = await request(`api/task?id=${encodeURIComponent(id)}`);
      const text = JSON.stringify(told);
      if (mine === looked && text !== shown && !body.contains(document.activeElement)) {
        shown = text;
        drawTask(body, told);
      }
    } catch (error) {
      body.replaceChildren(h("p", { class: "wrong" }, error.message));
      return;
    }
    await new Promise((resolve) => setTimeout(resolve, 2000));
  }
}

function drawTask(body, { asked, found, unsearched, cut, tree }) {
  if (!found) {
    body.replaceChildren(
      h("p", {}, h("strong", {}, "The broker knows no task with this id."), " It may keep no result, its result has expired, or the id has a slip."),
      h("p", { class: "id" }, asked),
      unsearched ? h("p", { class: "hint" }, "Plain tasks that wait were not looked through: too many wait at the moment.") : "",
    );
    return;
  }
  const node = within(tree, asked) ?? tree;
  say($("task-head"), node.task || "Task");
  const facts = [["Id", h("span", { class: "id" }, asked)], ["State", stateTag(node)], ["Where", where(node)], ["Ended", node.done ? clock(Date.parse(node.done) / 1000) : ""], ["Error", node.error ?? ""], ["Arguments", node.arguments ?? ""], ["Result", node.value ?? ""]];
  const list = h("dl", { class: "facts" });
  for (const [name, value] of facts) if (value) list.append(h("dt", {}, name), h("dd", {}, value));
  const parts = [list];
  if (!state.session.read_only && !["SUCCESS", "FAILURE", "REVOKED"].includes(node.state)) {
    const revoke = button("Revoke", () => act("revoke", { id: asked }, revoke));
    parts.push(h("div", { class: "do left" }, revoke, button("Terminate…", () => terminate(asked, node.task), { class: "grave" })));
  }
  if (node.traceback) parts.push(h("details", {}, h("summary", {}, "Traceback"), h("pre", { tabindex: "0" }, node.traceback)));
  if (tree.children.length || tree.id !== asked) {
    parts.push(h("h3", {}, "Workflow"), h("ul", { class: "tree" }, branch(tree, asked)));
    if (cut) parts.push(h("p", { class: "hint" }, "It is larger than what is shown."));
  }
  body.replaceChildren(...parts);
}

function within(node, id) {
  if (node.id === id) return node;
  for (const child of node.children) {
    const found = within(child, id);
    if (found) return found;
  }
  return null;
}

function stateTag(node) {
  const [text, kind] = STATES[node.state] ?? [node.state, ""];
  const waits = { delayed: "◷ for later", held: "◫ held", parked: "◫ parked", "to come": "· to come" }[node.where];
  const raw = node.state === "PENDING" && waits ? waits : text;
  return h("span", { class: `tag state ${kind}` }, raw);
}

function where(node) {
  if (node.where === "running") return `on ${node.worker} for ${span(node.for_s)}${node.attempt > 1 ? `, attempt ${node.attempt}` : ""}`;
  if (node.where === "waiting") return `waits in ${node.queue}`;
  if (node.where === "delayed") return `in ${node.queue}, due in ${span(node.due_s)}`;
  if (node.where === "parked") return `parked for ${node.queue}`;
  if (node.where === "held") return node.parts.of === null ? "waits for its parts" : `${node.parts.ended} of ${plural(node.parts.of, "part")} have ended`;
  return "";
}

// A result names its task only with result_extended.
function named(node) {
  return node.task || `task …${node.id.slice(-12)}`;
}

function branch(node, asked) {
  const name = node.id ? button(named(node), () => openTask(node.id), { class: "link", title: node.id }) : h("span", {}, node.task);
  const line = h("div", { class: node.id === asked ? "asked" : "" }, node.role ? h("span", { class: "role" }, node.role) : null, stateTag(node), name, h("span", { class: "note" }, node.error ?? where(node)));
  return h("li", { "data-task": node.id }, line, node.children.length ? h("ul", {}, ...node.children.map((child) => branch(child, asked))) : null);
}

async function terminate(id, task) {
  const yes = await confirmed({ head: `Terminate ${task || "this task"}?`, text: `Its process gets SIGTERM at once, and it ends as revoked. ${id}`, yes: "Terminate" });
  if (yes) act("terminate", { id });
}

$("find").addEventListener("submit", (event) => {
  event.preventDefault();
  const id = $("find-id").value.trim();
  if (id) openTask(id);
});
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("input, textarea, dialog[open]");
  if (event.key === "/" && state.session && !typing && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    $("find-id").focus();
  }
});

// Updates

const SHOW = { verdict: showVerdict, totals: showTotals, queues: showQueues, workers: showWorkers, failures: showFailures, dead: showDead, schedules: showSchedules };

function update(told) {
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
  if (!("failures" in told)) for (const row of $("failure-list").children) say(row.parts.when, ago(row.parts.at));
  if (!("dead" in told) && state.sections.dead) showDead(state.sections.dead);
  if (!("schedules" in told) && state.sections.schedules) showSchedules(state.sections.schedules);
  freshness();
}

function freshness() {
  const late = (performance.now() - state.heard) / 1000;
  const away = state.sections.verdict?.away;
  const old = state.heard > 0 && late > 5;
  $("fresh").classList.toggle("old", old);
  if (old) say($("fresh"), `The dashboard is silent for ${span(late)}`);
  else say($("fresh"), away ? "what stands below is as it was" : state.heard ? "live" : "");
}

let source = null;

function listen() {
  if (source || document.hidden || !state.session) return;
  source = new EventSource("api/updates");
  source.onopen = renew;
  source.onmessage = (event) => update(JSON.parse(event.data));
  source.onerror = () => {
    if (source?.readyState !== EventSource.CLOSED) return; // it connects again by itself
    source = null;
    // Refused: is it the login? Else the dashboard is away, or comes back.
    setTimeout(() => start().catch(() => {}), 2000);
  };
}

// After a restart of the dashboard its secret is another one.
async function renew() {
  const told = await request("api/session").catch(() => null);
  if (told) state.session = told;
}

function hang() {
  source?.close();
  source = null;
}

// Nobody looks at a page that is hidden: then nobody asks the broker.
let hiding = 0;
document.addEventListener("visibilitychange", () => {
  clearTimeout(hiding);
  if (document.hidden) hiding = setTimeout(hang, 3000);
  else listen();
});
setInterval(freshness, 1000);

// Who may look

function logIn() {
  hang();
  state.session = null;
  $("page").hidden = $("find").hidden = true;
  $("login").hidden = false;
  $("token").focus();
}

$("login-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  say($("login-wrong"), "");
  try {
    await request("api/login", { token: $("token").value });
    $("token").value = "";
    await start();
  } catch (error) {
    say($("login-wrong"), error.message);
  }
});
$("leave").addEventListener("click", async () => {
  try {
    await request("api/logout", {});
  } finally {
    location.reload();
  }
});

async function start() {
  const response = await fetch("api/session", { credentials: "same-origin" }).catch(() => null);
  if (!response) {
    setTimeout(start, 2000);
    return;
  }
  if (response.status === 401) {
    logIn();
    return;
  }
  const told = await response.json().catch(() => ({}));
  if (!response.ok) {
    $("page").hidden = false;
    showVerdict({ level: "bad", text: "The dashboard refuses", reasons: [{ level: "bad", text: told.error ?? String(response.status), section: "queues" }] });
    return;
  }
  state.session = told;
  $("login").hidden = true;
  $("page").hidden = $("find").hidden = false;
  $("leave").hidden = !told.leaves;
  say($("about"), `${told.url}${told.read_only ? " · read only" : ""}`);
  say($("start-worker"), `emq-compat worker -A myproj -b ${told.url}`);
  document.body.classList.toggle("read-only", told.read_only);
  listen();
}

// Colours

const THEMES = { auto: ["Auto", "as the system has it"], dark: ["Dark", "dark"], light: ["Light", "light"] };

function theme(name) {
  if (name === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  say($("theme"), THEMES[name][0]);
  $("theme").title = `Colours: ${THEMES[name][1]}`;
  $("theme").setAttribute("aria-label", `Colours: ${THEMES[name][1]}`);
}

let colours = localStorage.getItem("emq-colours") ?? "auto";
if (!(colours in THEMES)) colours = "auto";
theme(colours);
$("theme").addEventListener("click", () => {
  const names = Object.keys(THEMES);
  colours = names[(names.indexOf(colours) + 1) % names.length];
  localStorage.setItem("emq-colours", colours);
  theme(colours);
});

start();
