// Small comforts: a whole row is a link, commands are copied, filters apply when they change.
"use strict";
(() => {
  document.addEventListener("click", async (event) => {
    const copy = event.target.closest("[data-copy]");
    if (copy) {
      await navigator.clipboard?.writeText(copy.dataset.copy);
      copy.setAttribute("aria-label", "Copied");
      copy.classList.add("is-done");
      setTimeout(() => { copy.setAttribute("aria-label", "Copy the command"); copy.classList.remove("is-done"); }, 1500);
      return;
    }
    const row = event.target.closest("tr[data-row]");
    if (!row || event.target.closest("a, button, input, select, summary, label") || String(getSelection())) return;
    const link = row.querySelector("a[href]");
    if (!link) return;
    if (event.ctrlKey || event.metaKey) open(link.href, "_blank", "noopener");
    else link.click();
  });

  document.addEventListener("change", (event) => {
    const form = event.target.closest("form[data-filters]");
    if (form && event.target.matches("select, input[type=checkbox]")) form.requestSubmit();
  });
  // The address stays short: fields that are empty are not sent.
  document.addEventListener("submit", (event) => {
    if (event.target.method !== "get") return;
    for (const field of event.target.elements) if (field.name && field.value === "") field.disabled = true;
  });
})();
