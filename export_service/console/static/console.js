// Shows what the server sends: it renders everything. One stream of events a page; a browser reconnects it by itself.
"use strict";

const live = document.querySelector("[data-live]");
const state = document.querySelector("#state");
let events;

function say(text, name) {
  if (state.textContent !== text) state.textContent = text;
  state.dataset.state = name;
}

function put(region, html) {
  const focused = region.contains(document.activeElement) ? document.activeElement : null;
  const selected = window.getSelection();
  if (selected && !selected.isCollapsed && region.contains(selected.anchorNode)) return; // somebody copies
  const scrolled = [...region.querySelectorAll("[data-scroll]")].map((each) => each.scrollLeft);
  region.innerHTML = html;
  region.querySelectorAll("[data-scroll]").forEach((each, n) => { each.scrollLeft = scrolled[n] || 0; });
  if (!focused) return;
  const href = focused.getAttribute("href");
  const again = [...region.querySelectorAll(focused.tagName)].find(
    (each) => (focused.id && each.id === focused.id) || (href && each.getAttribute("href") === href));
  if (again) again.focus({ preventScroll: true });
}

function listen() {
  if (events || !live) return;
  events = new EventSource("/events?of=" + encodeURIComponent(live.dataset.live));
  events.onopen = () => say("live", "live");
  events.onmessage = (event) => {
    say("live", "live");
    put(live, event.data);
    refresh();
  };
  events.onerror = () => say(events.readyState === 2 ? "not live; load the page again" : "connecting again", "gone");
}

function leave() {
  if (events) events.close();
  events = undefined;
}

// What costs more is asked for when its job has moved, at most each five seconds; the server shares one answer among all.
const parts = [...document.querySelectorAll("[data-load]")];
async function load(part) {
  if (part.busy) return;
  part.busy = true;
  try {
    const answer = await fetch(part.dataset.load);
    const html = await answer.text();
    if (html !== part.html) put(part, html);
    part.html = html;
  } catch (error) {
    part.textContent = "The server does not answer; load the page again.";
  }
  part.loaded = Date.now();
  part.busy = false;
}
function refresh() {
  const moved = live && live.querySelector("[data-version]");
  for (const part of parts) {
    if (!moved || part.version === moved.dataset.version || part.later) continue;
    part.later = setTimeout(() => {
      const now = live.querySelector("[data-version]");
      part.later = undefined;
      part.version = now ? now.dataset.version : undefined;
      load(part);
    }, Math.max(0, (part.loaded || 0) + 5000 - Date.now()));
  }
}

document.addEventListener("visibilitychange", () => (document.hidden ? leave() : listen()));
window.addEventListener("pagehide", leave);
window.addEventListener("pageshow", listen);
const moved = live && live.querySelector("[data-version]");
for (const part of parts) {
  part.version = moved ? moved.dataset.version : undefined;
  load(part);
}
listen();
