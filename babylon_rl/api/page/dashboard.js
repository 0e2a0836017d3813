// The dashboard: asks for everything at once every few seconds and redraws the sections that changed.
// The token lives in this tab's sessionStorage and travels in a header, so no other site can use it.

import { drawAll } from "./sections.js";
import { $, toast } from "./dom.js";

const EVERY_MS = 3000, SLOWEST_MS = 30000, KEY = "babylon-admin-token";

let token = sessionStorage.getItem(KEY);
let timer = 0, failures = 0, seen = 0, last = null;

/** Asks the admin API; a refusal becomes an Error with the server's own sentence. */
async function api(method, path, body) {
  const headers = { Authorization: `Bearer ${token}` };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(`/api/admin/training/${path}`, {
      method, headers, body: body === undefined ? undefined : JSON.stringify(body),
      cache: "no-store", credentials: "omit", signal: AbortSignal.timeout(30000),
    });
  } catch {
    throw new Error("The server does not answer.");
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) {
    const problem = new Error(answer.error ?? `The server answered ${response.status}.`);
    problem.status = response.status;
    throw problem;
  }
  return answer;
}

/** Does something, says so, and shows its effect at once. */
async function act(method, path, body, done) {
  const answer = await api(method, path, body);
  toast(done(answer));
  refresh();
}

function showLogin(message = "") {
  clearTimeout(timer);
  sessionStorage.removeItem(KEY);
  token = null;
  $("board").hidden = $("logout").hidden = $("health").hidden = true;
  $("live").textContent = "";
  $("login").hidden = false;
  $("login-error").textContent = message;
  $("token").focus();
}

async function refresh() {
  clearTimeout(timer);
  try {
    last = await api("GET", "dashboard");
    failures = 0;
    seen = Date.now();
    sessionStorage.setItem(KEY, token);
    $("login").hidden = true;
    $("board").hidden = $("logout").hidden = $("health").hidden = false;
    drawAll(last, act);
  } catch (problem) {
    if (problem.status === 401 || (!seen && problem.status)) return showLogin(problem.message);
    if (!seen) $("login").hidden = false;
    failures += 1;
    if (!seen) $("login-error").textContent = problem.message;
  }
  showLive();
  timer = setTimeout(refresh, Math.min(SLOWEST_MS, EVERY_MS * 2 ** failures));
}

function showLive() {
  if (!seen || !token) return;
  const age = Math.round((Date.now() - seen) / 1000);
  $("live").classList.toggle("off", failures > 0);
  $("live").textContent = failures ? `No answer for ${age} s` : "Live";
}

$("login").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("token").value.trim();
  seen = 0;
  $("token").value = "";
  $("login-error").textContent = "";
  refresh();
});
$("logout").addEventListener("click", () => showLogin());
document.addEventListener("visibilitychange", () => {
  if (document.hidden) clearTimeout(timer);
  else if (token) refresh();
});
let resizing = 0;
addEventListener("resize", () => {
  clearTimeout(resizing);
  resizing = setTimeout(() => { if (last && token) drawAll(last, act, true); }, 150);
});
setInterval(showLive, 1000);

if (token) refresh();
else showLogin();
