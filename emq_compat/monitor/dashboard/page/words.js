// Numbers, rates and times in words.

import { state } from "./state.js";

const whole = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

export function count(number) {
  return number >= 1e6 ? short.format(number) : whole.format(number);
}

export function rate(number) {
  if (!number) return "0";
  return number < 10 ? number.toFixed(1) : count(Math.round(number));
}

export function plural(number, noun, nouns = `${noun}s`) {
  return `${count(number)} ${number === 1 ? noun : nouns}`;
}

export function span(seconds) {
  if (seconds < 0.95) return seconds < 0.05 ? "0 s" : `${seconds.toFixed(1)} s`;
  const s = Math.round(seconds);
  if (s < 120) return `${s} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min`;
  if (s < 172800) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86400)} d`;
}

export function now() {
  return Date.now() / 1000 + state.skew;
}

export function ago(at) {
  const seconds = now() - at;
  return seconds < 2 ? "just now" : `${span(seconds)} ago`;
}

export function ahead(at) {
  const seconds = at - now();
  if (seconds > 0) return `in ${span(seconds)}`;
  return seconds > -5 ? "now" : `due ${span(-seconds)} ago`;
}

export function clock(at) {
  return new Date(at * 1000).toLocaleString();
}
