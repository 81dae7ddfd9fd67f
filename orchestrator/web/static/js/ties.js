// What belongs together is marked together: pointing at a bar marks its events and log lines, and the other way round.
"use strict";
(() => {
  let marked = [];

  function clear() {
    for (const element of marked) element.classList.remove("is-tied");
    marked = [];
  }

  function mark(event) {
    const origin = event.target.closest?.("[data-tie]");
    clear();
    if (!origin) return;
    for (const tie of origin.dataset.tie.split(" ")) {
      for (const element of document.querySelectorAll(`[data-tie~="${CSS.escape(tie)}"]`)) {
        element.classList.add("is-tied");
        marked.push(element);
      }
    }
  }

  document.addEventListener("pointerover", mark);
  document.addEventListener("focusin", mark);
  document.addEventListener("focusout", clear);
})();
