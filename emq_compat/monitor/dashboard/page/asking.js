// Asking the dashboard.

import { state } from "./state.js";

export async function request(path, given) {
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
  if (response.status === 401) document.dispatchEvent(new Event("logged-out"));
  if (!response.ok) throw new Error(answer.error ?? `The dashboard answered ${response.status}.`);
  return answer;
}

const EVERY_MS = 2000;
const watched = new WeakMap();

// Looks again and again while `still()`, until `look` returns false or somebody else watches the element;
// not while the page is hidden. `look` is given what tells whether its answer is still wanted.
export async function watch(element, still, look) {
  const mine = Symbol("watch");
  watched.set(element, mine);
  const wanted = () => watched.get(element) === mine && still();
  while (wanted()) {
    if (!document.hidden && (await look(wanted)) === false) return;
    await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
  }
}
