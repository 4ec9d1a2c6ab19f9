// Light, dark, or as the system has it.

import { $, say } from "./elements.js";

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
