// Who may look, and the connection over which updates come while somebody does.

import { request } from "./asking.js";
import { $, say } from "./elements.js";
import { state } from "./state.js";
import { freshness, update } from "./updates.js";
import { showVerdict } from "./verdict.js";

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

function logIn() {
  hang();
  state.session = null;
  $("page").hidden = $("find").hidden = true;
  $("login").hidden = false;
  $("token").focus();
}

document.addEventListener("logged-out", logIn);

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

export async function start() {
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
