// Puts the picture of the source over that of the result, with a divider between them. Without this script both
// stand side by side.
"use strict";

(() => {
  const ZOOMS = [1, 1.5, 2, 3, 4, 6, 8];
  const AGAIN = 4000;
  const RETRIES = 10;
  const PLACEHOLDER = 4096;
  const place = document.getElementById("compare");
  const images = document.getElementById("images");

  function element(name, properties = {}, ...children) {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  }

  // In place of a picture that is still being made comes one that is larger than any: it is asked for again.
  async function loaded(picture) {
    for (let tries = 0; tries < RETRIES; tries += 1) {
      const image = element("img", { alt: picture.alt, draggable: false, src: picture.src });
      await image.decode().catch(() => {});
      if (image.naturalWidth && image.naturalWidth !== PLACEHOLDER) return image;
      await new Promise((resolve) => setTimeout(resolve, AGAIN));
      await fetch(picture.src, { cache: "reload" }).catch(() => {});
    }
    return null;
  }

  function build(before, after) {
    before.className = "before";
    after.className = "after";
    const sheet = element("div", { className: "sheet" }, before, after);
    const view = element("div", { className: "view", tabIndex: 0 }, sheet);
    view.setAttribute("role", "region");
    view.setAttribute("aria-label", "Both pictures, one over the other");
    const divider = element("div", { className: "divider" });
    divider.setAttribute("aria-hidden", "true"); // the slider below does the same for all
    const stage = element(
      "div",
      { className: "stage" },
      view,
      divider,
      element("span", { className: "corner first", textContent: "Before", ariaHidden: "true" }),
      element("span", { className: "corner second", textContent: "After", ariaHidden: "true" }),
    );
    const slider = element("input", { type: "range", min: 0, max: 100, value: 50, id: "divide" });
    slider.setAttribute("aria-label", "Divider between before and after");
    const smaller = element("button", { type: "button", className: "quiet", textContent: "−", ariaLabel: "Smaller" });
    const larger = element("button", { type: "button", className: "quiet", textContent: "+", ariaLabel: "Larger" });
    const shown = element("output", { textContent: "1×" });
    shown.setAttribute("aria-live", "polite");
    const aside = element("button", { type: "button", className: "quiet", textContent: "Side by side" });
    aside.setAttribute("aria-pressed", "false");
    const zoom = element("span", { className: "zoom" }, smaller, shown, larger);
    const slide = element("label", { className: "slide" }, "Before", slider, "After");
    const controls = element("div", { className: "controls" }, slide, zoom, aside);
    sheet.style.setProperty("--aspect", after.naturalWidth / after.naturalHeight);
    // Pixels are whole: a small picture is not exactly as wide to its height as the large one.
    const alike = (before.naturalWidth * after.naturalHeight) / (before.naturalHeight * after.naturalWidth);
    if (Math.abs(alike - 1) < 0.03) before.style.objectFit = "fill";
    let factor = 1;

    function draw() {
      const at = Number(slider.value) / 100;
      slider.setAttribute("aria-valuetext", `${slider.value} % before, ${100 - slider.value} % after`);
      stage.style.setProperty("--at", `${at * 100}%`);
      const cut = view.scrollLeft + at * view.clientWidth - sheet.offsetLeft;
      after.style.setProperty("--cut", `${Math.min(Math.max(cut, 0), sheet.clientWidth)}px`);
    }

    function enlarge(next) {
      const [x, y] = [view.scrollLeft + view.clientWidth / 2, view.scrollTop + view.clientHeight / 2];
      const grown = next / factor;
      factor = next;
      sheet.style.setProperty("--zoom", factor);
      shown.textContent = `${factor}×`;
      view.scrollLeft = x * grown - view.clientWidth / 2;
      view.scrollTop = y * grown - view.clientHeight / 2;
      smaller.disabled = factor === ZOOMS[0];
      larger.disabled = factor === ZOOMS.at(-1);
      draw();
    }

    const step = (by) => enlarge(ZOOMS[Math.min(Math.max(ZOOMS.indexOf(factor) + by, 0), ZOOMS.length - 1)]);
    smaller.addEventListener("click", () => step(-1));
    larger.addEventListener("click", () => step(1));
    view.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || !"+-".includes(event.key)) return;
      event.preventDefault();
      step(event.key === "+" ? 1 : -1);
    });
    slider.addEventListener("input", draw);
    view.addEventListener("scroll", draw, { passive: true });
    new ResizeObserver(draw).observe(view);

    divider.addEventListener("pointerdown", (event) => {
      divider.setPointerCapture(event.pointerId);
      event.preventDefault();
    });
    divider.addEventListener("pointermove", (event) => {
      if (!divider.hasPointerCapture(event.pointerId)) return;
      const box = stage.getBoundingClientRect();
      slider.value = Math.round(((event.clientX - box.left) / box.width) * 100);
      draw();
    });

    aside.addEventListener("click", () => {
      const on = place.classList.toggle("comparing");
      aside.setAttribute("aria-pressed", String(!on));
      for (const part of [stage, slide, zoom]) part.hidden = !on;
      if (on) draw();
    });

    const whole = element("div", { className: "compare" }, stage, controls);
    whole.setAttribute("role", "group");
    whole.setAttribute("aria-label", "Before and after");
    place.replaceChildren(whole);
    place.classList.add("comparing");
    enlarge(1);
  }

  let begun = false;

  async function begin() {
    const before = images.querySelector("img.before");
    const after = images.querySelector("img.after");
    if (begun || !before || !after) return;
    begun = true;
    const [first, second] = await Promise.all([loaded(before), loaded(after)]);
    if (first && second) build(first, second);
  }

  // Both pictures may come while the page is open.
  new MutationObserver(begin).observe(images, { childList: true, subtree: true, attributes: true });
  begin();
})();
