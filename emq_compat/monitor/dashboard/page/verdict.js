// The first look: is all well?

import { $, h, keyed, number, say } from "./elements.js";
import { draw } from "./sparks.js";
import { state } from "./state.js";
import { count, plural, rate } from "./words.js";

const SIGNS = { ok: "✓", warn: "!", bad: "✕" };

export function showVerdict({ level, text, reasons }) {
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

export function showTotals(totals) {
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
