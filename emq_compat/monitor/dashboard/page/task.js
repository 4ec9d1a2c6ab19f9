// One task, and the workflow that it belongs to.

import { act, confirmed } from "./acting.js";
import { request, watch } from "./asking.js";
import { $, button, h, redraw, say, tag } from "./elements.js";
import { state } from "./state.js";
import { clock, plural, span } from "./words.js";

const STATES = {
  SUCCESS: ["✓ done", "ok"],
  FAILURE: ["✕ failed", "bad"],
  REVOKED: ["⊘ revoked", "warn"],
  RETRY: ["↻ retries", "warn"],
  STARTED: ["▸ runs", ""],
  PENDING: ["· waits", ""],
  UNKNOWN: ["? not known", ""],
};

export function openTask(id) {
  const body = $("task-body");
  say($("task-head"), "Task");
  body.replaceChildren(h("p", { class: "hint" }, "Looking …"));
  if (!$("task").open) $("task").showModal();
  else $("task-head").focus();
  let shown = "";
  watch(
    $("task"),
    () => $("task").open,
    async (wanted) => {
      try {
        const told = await request(`api/task?id=${encodeURIComponent(id)}`);
        const text = JSON.stringify(told);
        // What is being copied stays as it is.
        const copied = !getSelection().isCollapsed && body.contains(getSelection().anchorNode);
        if (wanted() && text !== shown && !copied) {
          shown = text;
          redraw(body, partsOf(told), $("task-head"));
        }
      } catch (error) {
        if (wanted()) body.replaceChildren(h("p", { class: "wrong" }, error.message));
        return false;
      }
      return true;
    },
  );
}

function partsOf({ asked, found, unsearched, cut, tree }) {
  // Of one that keeps no result others of its workflow may be known.
  if (!found && !tree.children.length) {
    return [
      h("p", {}, h("strong", {}, "The broker knows no task with this id."), " It may keep no result, its result has expired, or the id has a slip."),
      h("p", { class: "id" }, asked),
      unsearched ? h("p", { class: "hint" }, "Plain tasks that wait were not looked through: too many wait at the moment.") : "",
    ];
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
  if (node.traceback) parts.push(h("details", {}, h("summary", {}, "Traceback"), h("pre", { tabindex: "0", role: "region", "aria-label": "Traceback" }, node.traceback)));
  if (tree.children.length || tree.id !== asked) {
    parts.push(h("h3", {}, "Workflow"), h("ul", { class: "tree" }, branch(tree, asked)));
    if (cut) parts.push(h("p", { class: "hint" }, "It is larger than what is shown."));
  }
  return parts;
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
  const line = h("div", { class: node.id === asked ? "asked" : "" }, node.role ? h("span", { class: "role" }, node.role) : null, node.state ? stateTag(node) : null, name, h("span", { class: "note" }, node.error ?? where(node)));
  return h("li", { "data-task": node.id }, line, node.children.length ? h("ul", {}, ...node.children.map((child) => branch(child, asked))) : null);
}

export async function terminate(id, task) {
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
