// Shows what the server sends: it renders everything. One stream of events a page; a browser reconnects it by itself.
"use strict";

const live = document.querySelector("[data-live]");
const state = document.querySelector("#state");
const waits = new Map(); // region -> what came for it meanwhile
let events;
let pressed = 0;

function say(text, name) {
  if (state.textContent !== text) state.textContent = text;
  state.dataset.state = name;
}

// A click on what is replaced between press and release is lost, and so is what somebody selects to copy it.
function busy(region) {
  const selected = window.getSelection();
  return Date.now() - pressed < 3000 || (selected && !selected.isCollapsed && region.contains(selected.anchorNode));
}

function put(region, html) {
  if (busy(region)) return void waits.set(region, html);
  waits.delete(region);
  const focused = region.contains(document.activeElement) ? document.activeElement : null;
  const scrolled = [...region.querySelectorAll("[data-scroll]")].map((each) => each.scrollLeft);
  region.innerHTML = html;
  region.querySelectorAll("[data-scroll]").forEach((each, n) => { each.scrollLeft = scrolled[n] || 0; });
  if (region === live) refresh();
  if (!focused) return;
  const href = focused.getAttribute("href");
  const again = [...region.querySelectorAll(focused.tagName)].find(
    (each) => (focused.id && each.id === focused.id) || (href && each.getAttribute("href") === href));
  if (again) again.focus({ preventScroll: true });
}

function release() {
  pressed = 0;
  for (const [region, html] of [...waits]) put(region, html);
}

function listen() {
  if (events || !live) return;
  events = new EventSource("/events?of=" + encodeURIComponent(live.dataset.live));
  events.onopen = () => say("live", "live");
  events.onmessage = (event) => {
    say("live", "live");
    put(live, event.data);
  };
  events.onerror = () => say(events.readyState === 2 ? "not live; load the page again" : "connecting again", "gone");
}

function leave() {
  if (events) events.close();
  events = undefined;
}

// What costs more is asked for when its job has moved, or when an answer was of before that, at most each five seconds;
// the server shares one answer among all.
const parts = [...document.querySelectorAll("[data-load]")];
function version() {
  const moved = live && live.querySelector("[data-version]");
  return moved ? moved.dataset.version : undefined;
}
async function load(part) {
  part.version = version();
  let again = false;
  try {
    const answer = await fetch(part.dataset.load);
    const html = await answer.text();
    again = answer.headers.has("X-Ask-Again");
    if (html !== part.html) put(part, html);
    part.html = html;
  } catch (error) {
    part.textContent = "The server does not answer; load the page again.";
  }
  part.loaded = Date.now();
  part.later = undefined;
  if (again || part.version !== version()) soon(part);
}
function soon(part) {
  if (!part.later) part.later = setTimeout(load, Math.max(0, (part.loaded || 0) + 5000 - Date.now()), part);
}
function refresh() {
  for (const part of parts) if (part.version !== version()) soon(part);
}

document.addEventListener("pointerdown", () => { pressed = Date.now(); });
for (const name of ["pointerup", "pointercancel", "dragend"]) document.addEventListener(name, () => setTimeout(release));
document.addEventListener("visibilitychange", () => (document.hidden ? leave() : listen()));
window.addEventListener("pagehide", leave);
window.addEventListener("pageshow", listen);
for (const part of parts) {
  part.later = true; // it is under way
  load(part);
}
listen();
