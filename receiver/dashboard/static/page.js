// Keeps the page up to date: asks for it again and brings over what differs, so that focus, scrolling and open
// tables stay where they are. It is polled, and no stream of events is listened to: browsers keep six connections
// to a host, and each open tab would hold one for as long as it is open.
"use strict";

(() => {
  const main = document.getElementById("main");
  const EVERY = Number(main.dataset.every ?? 4000);
  const PATIENCE = 15000;
  const stale = document.getElementById("stale");
  // Deadlines are the server's: its clock counts, and not this machine's.
  let ahead = Number(main.dataset.now) - Date.now();
  let fresh = Date.now();
  let timer = 0;
  let asking = false;

  for (const element of document.querySelectorAll("[data-without-script]")) element.remove();

  // Times

  const local = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "long" });

  const two = (number) => String(number).padStart(2, "0");

  function span(milliseconds) {
    const seconds = Math.floor(Math.max(milliseconds, 0) / 1000);
    if (seconds < 60) return `${seconds} s`;
    const minutes = Math.floor(seconds / 60);
    if (minutes < 60) return `${minutes} min ${two(seconds % 60)} s`;
    const hours = Math.floor(minutes / 60);
    if (hours < 48) return `${hours} h ${two(minutes % 60)} min`;
    return `${Math.floor(hours / 24)} d ${hours % 24} h`;
  }

  function write(element, text) {
    if (element.textContent !== text) element.textContent = text;
  }

  function tick() {
    const now = Date.now() + ahead;
    for (const element of document.querySelectorAll("[data-until]")) {
      const left = Number(element.dataset.until) - now;
      write(element, left > 0 ? `in ${span(left)}` : `${span(-left)} ago`);
      element.className = "left";
    }
    for (const element of document.querySelectorAll("[data-since]")) {
      write(element, `${span(now - Number(element.dataset.since))} ago`);
    }
    for (const element of document.querySelectorAll("time")) {
      const title = local.format(new Date(element.dateTime));
      if (element.title !== title) element.title = title;
    }
  }

  // Bringing over what differs

  const keyOf = (node) => (node.nodeType === Node.ELEMENT_NODE ? node.dataset?.key || node.id || "" : "");
  const alike = (a, b) => a.nodeType === b.nodeType && a.nodeName === b.nodeName && keyOf(a) === keyOf(b);

  function become(old, wanted) {
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.nodeValue !== wanted.nodeValue) old.nodeValue = wanted.nodeValue;
      return;
    }
    const counted = wanted.hasAttribute("data-until") || wanted.hasAttribute("data-since");
    for (const { name } of [...old.attributes]) {
      const opened = old.nodeName === "DETAILS" && name === "open";
      const told = old.nodeName === "TIME" && (name === "title" || (counted && name === "class"));
      if (!wanted.hasAttribute(name) && !opened && !told) old.removeAttribute(name);
    }
    for (const { name, value } of wanted.attributes) {
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    if (!counted) becomeWithin(old, wanted);
  }

  function becomeWithin(old, wanted) {
    const keyed = new Map();
    for (const child of old.childNodes) if (keyOf(child)) keyed.set(keyOf(child), child);
    let at = old.firstChild;
    for (const child of [...wanted.childNodes]) {
      const known = keyed.get(keyOf(child));
      if (known && alike(known, child)) {
        if (known !== at) old.insertBefore(known, at);
        else at = at.nextSibling;
        become(known, child);
      } else if (at && alike(at, child) && !keyOf(child)) {
        const next = at.nextSibling;
        become(at, child);
        at = next;
      } else {
        old.insertBefore(document.importNode(child, true), at);
      }
    }
    while (at) {
      const next = at.nextSibling;
      at.remove();
      at = next;
    }
  }

  // Asking

  async function refresh() {
    if (asking || document.visibilityState === "hidden") return;
    asking = true;
    try {
      const answer = await fetch(location.href, {
        headers: { Accept: "text/html" },
        cache: "no-store",
        signal: AbortSignal.timeout(PATIENCE),
      });
      if (!answer.ok) throw new Error(`the receiver answers ${answer.status}`);
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const now = page.getElementById("main")?.dataset.now;
      if (!now) throw new Error("the answer is no page of the receiver");
      for (const region of document.querySelectorAll("[data-live]")) {
        const wanted = page.getElementById(region.id);
        if (wanted) become(region, wanted);
      }
      document.title = page.title;
      ahead = Number(now) - Date.now();
      fresh = Date.now();
      stale.hidden = true;
      document.body.classList.remove("is-stale");
    } catch (error) {
      const why = error instanceof TypeError || error.name === "TimeoutError" ? "the receiver does not answer" : error.message;
      const at = new Date(fresh + ahead).toISOString().slice(11, 19);
      write(stale, `Not refreshed since ${at} UTC: ${why}. What is shown is from then.`);
      stale.hidden = false;
      document.body.classList.add("is-stale");
    } finally {
      asking = false;
      tick();
    }
  }

  function schedule() {
    clearTimeout(timer);
    timer = setTimeout(async () => {
      await refresh();
      schedule();
    }, EVERY);
  }

  // A test delivery that is under way is shown step by step; its stream ends with it.
  const stepwise = document.querySelector("[data-events]");
  if (stepwise) {
    const stream = new EventSource(stepwise.dataset.events);
    stream.onmessage = refresh;
    stream.addEventListener("end", () => {
      stream.close();
      refresh();
    });
  }

  document.addEventListener("visibilitychange", async () => {
    if (document.visibilityState === "hidden") {
      clearTimeout(timer);
    } else {
      await refresh();
      schedule();
    }
  });

  tick();
  setInterval(() => document.visibilityState !== "hidden" && tick(), 1000);
  schedule();
})();
