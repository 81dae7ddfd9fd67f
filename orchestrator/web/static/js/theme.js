// Light or dark as chosen with the switch; before the page is painted, so that it does not flash.
"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("has-js");
  const chosen = (() => { try { return localStorage.getItem("theme"); } catch { return null; } })();
  if (chosen === "light" || chosen === "dark") root.dataset.theme = chosen;

  const isDark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  document.addEventListener("click", (event) => {
    if (!event.target.closest("#theme")) return;
    const next = isDark() ? "light" : "dark";
    root.dataset.theme = next;
    try { localStorage.setItem("theme", next); } catch { /* a browser without storage: until the next page */ }
    document.dispatchEvent(new CustomEvent("illume:theme"));
  });
})();
