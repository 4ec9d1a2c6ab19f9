// Lists of what can be very many: those that want a look come first, some are shown, and a name finds the others.

import { $, say } from "./elements.js";
import { plural } from "./words.js";

const FEW = 12;
const SOME = 40;

// `section`: its id, `noun`: what its rows are, `urgent(row)`: 0 is first, `show(settled)`: draws it anew.
export function list({ section, noun, name, urgent, show }) {
  const filter = $(`${section}-filter`);
  const more = $(`${section}-more`);
  const button = more.querySelector("button");
  let all = false;
  filter.addEventListener("input", () => show(true));
  button.addEventListener("click", () => {
    all = true;
    show(true);
    $(`${section}-head`).focus({ preventScroll: true });
  });
  // Returns those of these rows that are shown, in order. `total`: how many there are, listed or not.
  return (rows, total) => {
    filter.hidden = rows.length <= FEW;
    const wanted = filter.hidden ? "" : filter.value.trim().toLowerCase();
    const found = rows.filter((row) => name(row).toLowerCase().includes(wanted));
    const rank = rows.length > FEW ? urgent : () => 0;
    found.sort((a, b) => rank(a) - rank(b) || name(a).localeCompare(name(b)));
    const shown = all || wanted ? found : found.slice(0, SOME);
    const texts = [];
    if (wanted) texts.push(`${plural(found.length, noun)} of ${rows.length} with “${wanted}”.`);
    if (shown.length < found.length) texts.push(`${plural(found.length - shown.length, `more ${noun}`)}.`);
    if (total > rows.length) texts.push(`${plural(total - rows.length, `more ${noun}`)} with less in them.`);
    more.hidden = !texts.length;
    button.hidden = shown.length === found.length;
    say(more.firstElementChild, texts.join(" "));
    return shown;
  };
}
