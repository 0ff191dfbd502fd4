// What the gallery does better with a script: further pages come by themselves, the selection is counted and stays
// over pages, and a range is selected with Shift. Without it, each page is a page, and the form works as it is.
"use strict";

(() => {
  // Beyond so many pages the next one comes by its link alone: what is shown takes up memory.
  const MOST_PAGES = 20;
  const AGAIN = 3000;
  const MOST_TRIES = 6;
  const PLACEHOLDER = 4096;
  const selection = document.getElementById("selection");
  const days = document.getElementById("days");
  const more = document.getElementById("more");
  const picked = document.getElementById("picked");
  if (!days) return;

  const boxes = () => [...days.querySelectorAll("input[name=id]")];
  const kept = new Set();
  let last = null;

  function count(found = 0) {
    const all = boxes();
    for (const box of all) kept[box.checked ? "add" : "delete"](box.value);
    sessionStorage.setItem("selection", JSON.stringify([...kept]));
    const chosen = all.filter((box) => box.checked).length;
    const others = kept.size - chosen;
    const news = found ? `${found} more images. ` : "";
    picked.textContent = `${news}${chosen} of ${all.length} shown selected${others ? `, and ${others} not shown` : ""}.`;
    clear.hidden = !others;
    every.textContent = chosen && chosen === all.length ? "Select none" : "Select all shown";
  }

  // The selection of this tab, of all its pages
  function recall(found = 0) {
    kept.clear();
    for (const id of JSON.parse(sessionStorage.getItem("selection") ?? "[]")) kept.add(id);
    for (const box of boxes()) box.checked = kept.has(box.value);
    count(found);
  }

  function button(onClick) {
    const made = Object.assign(document.createElement("button"), { type: "button", className: "quiet" });
    made.addEventListener("click", onClick);
    return made;
  }

  const every = button(() => {
    const all = boxes();
    const wanted = all.some((box) => !box.checked);
    for (const box of all) box.checked = wanted;
    count();
  });
  const clear = button(() => {
    sessionStorage.removeItem("selection");
    recall();
  });
  clear.textContent = "Clear selection";
  selection.querySelector(".selection .buttons").prepend(every, clear);

  selection.addEventListener("formdata", ({ formData }) => {
    const shown = new Set(formData.getAll("id"));
    for (const id of kept) if (!shown.has(id)) formData.append("id", id);
  });
  addEventListener("pageshow", (event) => event.persisted && recall()); // another page may have changed it meanwhile

  days.addEventListener("click", (event) => {
    const box = event.target;
    if (!box.matches?.("input[name=id]")) return;
    const all = boxes();
    if (event.shiftKey && last && all.includes(last)) {
      const [from, to] = [all.indexOf(last), all.indexOf(box)].sort((a, b) => a - b);
      for (const between of all.slice(from, to + 1)) between.checked = box.checked;
    }
    last = box;
    count();
  });

  // Arrow keys move between images; Space and Enter are the browser's own.
  days.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || !event.target.matches(".tile a, .tile input")) return;
    const kind = event.target.matches("a") ? ".tile a" : ".tile input";
    const all = [...days.querySelectorAll(kind)];
    const next = all[all.indexOf(event.target) + step];
    if (!next) return;
    event.preventDefault();
    next.focus();
  });

  // In place of a picture that is still being made comes one that is larger than any: it is asked for again, less and
  // less.
  function again(image) {
    const tries = Number(image.dataset.tries ?? 0);
    if (image.naturalWidth !== PLACEHOLDER || tries >= MOST_TRIES) return;
    image.dataset.tries = tries + 1;
    setTimeout(() => {
      image.src = image.src;
    }, AGAIN * (tries + 1));
  }

  days.addEventListener("load", (event) => again(event.target), true); // it does not bubble
  for (const image of days.querySelectorAll("img")) if (image.complete) again(image);

  // Further pages

  let pages = 1;
  let loading = false;

  async function load() {
    const link = more.querySelector("a[rel=next]");
    if (!link || loading || pages >= MOST_PAGES) return;
    loading = true;
    try {
      const answer = await fetch(link.href, { headers: { Accept: "text/html" }, cache: "no-store" });
      if (!answer.ok) return; // the link stays, and says why
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      let found = 0;
      for (const section of page.querySelectorAll("#days .day")) {
        const tiles = [...section.querySelectorAll(".tile")];
        const shown = days.lastElementChild;
        if (shown?.dataset.day === section.dataset.day) {
          shown.querySelector(".grid").append(...tiles.map((tile) => document.importNode(tile, true)));
        } else {
          const heading = section.querySelector("h2");
          heading.id = `${heading.id}-page-${pages + 1}`;
          section.setAttribute("aria-labelledby", heading.id);
          days.append(document.importNode(section, true));
        }
        found += tiles.length;
      }
      const links = page.querySelector("#more .pages");
      const next = links?.querySelector("a[rel=next]");
      more.replaceChildren();
      if (next) {
        links.replaceChildren(next);
        more.append(document.importNode(links, true));
      }
      pages += 1;
      recall(found);
      watch();
    } catch {
      // The link stays.
    } finally {
      loading = false;
    }
  }

  const observer = new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && load(), {
    rootMargin: "600px",
  });

  function watch() {
    observer.disconnect();
    const next = more.querySelector("a[rel=next]");
    if (next) observer.observe(next);
  }

  recall();
  watch();
})();
