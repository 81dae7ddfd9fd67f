// The keys: `/` search, `j k` rows, Enter, `g` and a letter, `[ ]` attempts, `f` follow, `?` help; arrows in a strip.
"use strict";
(() => {
  const PLACES = { r: "/runs", d: "/datasets", c: "/cluster", e: "/events", q: "/questions" };
  const CHORD_MS = 1200;
  let chordAt = 0;

  const rows = () => [...document.querySelectorAll("main [data-row]")].filter((row) => row.offsetParent !== null);
  const isTyping = (target) => target.closest("input, select, textarea, [contenteditable]");

  function move(step) {
    const all = rows();
    if (!all.length) return;
    const now = all.findIndex((row) => row.classList.contains("is-current"));
    const next = all[Math.min(all.length - 1, Math.max(0, now < 0 ? (step > 0 ? 0 : all.length - 1) : now + step))];
    for (const row of all) row.classList.remove("is-current");
    next.classList.add("is-current");
    next.scrollIntoView({ block: "nearest" });
    next.querySelector("a[href]")?.focus({ preventScroll: true });
  }

  function attempt(step) {
    const tabs = [...document.querySelectorAll("[data-attempts] a")];
    const now = tabs.findIndex((tab) => tab.hasAttribute("aria-current"));
    tabs[now + step]?.click();
  }

  // Within a strip of shards: the arrows, Home and End; the Tab key stops there once.
  function moveInStrip(event) {
    const cells = [...event.target.closest("svg").querySelectorAll("a")];
    const now = cells.indexOf(event.target);
    const next = { ArrowRight: now + 1, ArrowLeft: now - 1, Home: 0, End: cells.length - 1 }[event.key];
    if (!cells[next]) return;
    event.preventDefault();
    event.target.setAttribute("tabindex", "-1");
    cells[next].setAttribute("tabindex", "0");
    cells[next].focus();
  }

  function openHelp() {
    const dialog = document.getElementById("keys");
    if (!dialog.open) dialog.showModal();
  }

  const ACTIONS = {
    "/": () => (document.querySelector("main input[type=search]") ?? document.getElementById("search"))?.focus(),
    j: () => move(1),
    k: () => move(-1),
    "[": () => attempt(-1),
    "]": () => attempt(1),
    f: () => document.querySelector("[data-follow]")?.click(),
    "?": openHelp,
    g: () => { chordAt = performance.now(); },
  };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (isTyping(event.target)) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    if (document.querySelector("dialog[open]")) return;
    if (performance.now() - chordAt < CHORD_MS && PLACES[event.key]) {
      event.preventDefault();
      location.assign(PLACES[event.key]);
      return;
    }
    if (event.key === "Enter" && event.target === document.body) {
      document.querySelector("main [data-row].is-current a[href]")?.click();
      return;
    }
    if (event.target.closest(".heat a")) moveInStrip(event);
    if (!Object.hasOwn(ACTIONS, event.key)) return;
    event.preventDefault();
    ACTIONS[event.key]();
  });

  document.addEventListener("click", (event) => { if (event.target.closest("#help")) openHelp(); });
  document.addEventListener("illume:refreshed", () => {
    const focused = document.activeElement?.closest?.("[data-row]");
    if (focused) focused.classList.add("is-current");
  });
})();
