// The pages work without this script. With it, the part that the server renews is replaced where it changed, times are
// those of the reader, and a form shows only the fields that it needs.
"use strict";

const live = document.getElementById("live");
const said = document.getElementById("said");
const lost = document.getElementById("lost");
const language = document.documentElement.lang;
const clock = new Intl.DateTimeFormat(language, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const day = new Intl.DateTimeFormat(language, { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const whole = new Intl.DateTimeFormat(language, { dateStyle: "full", timeStyle: "long" });

function localise(root) {
  for (const each of root.querySelectorAll("time")) {
    const time = new Date(each.dateTime);
    const today = time.toDateString() === new Date().toDateString();
    each.textContent = (today ? clock : day).format(time);
    each.title = whole.format(time);
  }
}

// Gives an element the content of another one. What is the same stays: focus, selection and scrolling with it.
function renew(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName || old.id !== fresh.id) {
    old.replaceWith(fresh);
    return;
  }
  if (old.nodeType !== Node.ELEMENT_NODE) {
    old.nodeValue = fresh.nodeValue;
    return;
  }
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  renewChildren(old, fresh);
}

function renewChildren(old, fresh) {
  const wanted = [...fresh.childNodes];
  const present = [...old.childNodes];
  wanted.forEach((each, place) => (place < present.length ? renew(present[place], each) : old.append(each)));
  present.slice(wanted.length).forEach((each) => each.remove());
}

// Screen readers hear what changed in a few words, and not each figure.
function say() {
  const text = live.querySelector("[data-say]")?.dataset.say ?? "";
  if (text !== said.dataset.last) {
    if (said.dataset.last !== undefined) said.textContent = text;
    said.dataset.last = text;
  }
}

function show(html) {
  const fresh = document.createElement("div");
  fresh.innerHTML = html;
  localise(fresh);
  const focused = document.activeElement?.id;
  renewChildren(live, fresh);
  if (focused && document.activeElement === document.body) document.getElementById(focused)?.focus();
  say();
}

let source = null;
function listen() {
  if (source) return;
  source = new EventSource(live.dataset.live);
  source.onopen = () => (lost.hidden = true);
  source.onmessage = (event) => show(event.data);
  source.onerror = () => {
    lost.hidden = false;
    // The server refused, such as after the end of the session: the page itself says why.
    if (source.readyState === EventSource.CLOSED) setTimeout(() => location.reload(), 5000);
  };
}
function hush() {
  source?.close();
  source = null;
}

localise(document);
if (live) {
  say();
  listen();
  // A browser has few connections for each server, and many tabs.
  document.addEventListener("visibilitychange", () => (document.hidden ? hush() : listen()));
  addEventListener("pagehide", hush);
  addEventListener("pageshow", listen);
}

for (const choice of document.querySelectorAll("select[data-other]")) {
  const other = document.getElementById(choice.dataset.other);
  const update = () => (other.hidden = choice.value !== "+");
  choice.addEventListener("change", update);
  update();
}
document.querySelector("[data-focus]")?.focus();
