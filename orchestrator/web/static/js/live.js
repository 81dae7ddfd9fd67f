// Live pages: listens to the stream of events that `main` names, and lets htmx refresh the page's content after each.
//
// Nothing is missed: the stream starts after the event that the page was drawn with; after a break the browser sends the
// id of the last event, and the content is refreshed once more.
"use strict";
(() => {
  const main = document.getElementById("main");
  const sign = document.getElementById("live");
  const QUIET_MS = 350; // events within this time are one refresh
  const RETRY_MS = [500, 1000, 2000, 4000, 8000]; // after the server closed the stream itself
  if (!main || !main.dataset.stream) return;

  let source = null, lastId = "", failures = 0, timer = 0, isRefreshing = false, isAgain = false, wasAway = false;

  function show(state, text) {
    sign.hidden = false;
    if (sign.dataset.state === state) return;
    sign.dataset.state = state;
    sign.firstElementChild.textContent = text;
  }

  async function refresh() {
    if (isRefreshing) { isAgain = true; return; }
    isRefreshing = true;
    const focused = document.activeElement && main.contains(document.activeElement) ? document.activeElement.id : "";
    try {
      await htmx.ajax("GET", location.pathname + location.search, { target: "#main", swap: "innerMorph" });
      if (focused && document.activeElement === document.body) document.getElementById(focused)?.focus({ preventScroll: true });
      document.dispatchEvent(new CustomEvent("illume:refreshed"));
    } finally {
      isRefreshing = false;
      if (isAgain) { isAgain = false; soon(); }
    }
  }

  function soon() {
    clearTimeout(timer);
    timer = setTimeout(() => { if (document.hidden) isAgain = true; else refresh(); }, QUIET_MS);
  }

  function heard(message) {
    if (message.lastEventId) lastId = message.lastEventId;
    let data = {};
    try { data = JSON.parse(message.data); } catch { return; }
    document.dispatchEvent(new CustomEvent("illume:event", { detail: data }));
    if (main.dataset.refresh !== "off") soon();
  }

  function open() {
    const address = new URL(main.dataset.stream, location.href);
    if (lastId) address.searchParams.set("after", lastId);
    source = new EventSource(address);
    source.onopen = () => {
      failures = 0;
      show("live", "Live");
      if (wasAway) { wasAway = false; soon(); }
    };
    source.onmessage = heard;
    // Progress of what is at work changes without an event.
    source.addEventListener("tick", () => { if (main.dataset.refresh !== "off" && main.querySelector(".tone-running")) soon(); });
    source.addEventListener("problem", (message) => {
      const text = JSON.parse(message.data).message;
      show(text ? "away" : "live", text ? "The database is away" : "Live");
    });
    source.onerror = () => {
      wasAway = true;
      show("away", "Reconnecting");
      if (source.readyState !== EventSource.CLOSED) return; // the browser tries again by itself
      setTimeout(open, RETRY_MS[Math.min(failures++, RETRY_MS.length - 1)]);
    };
  }

  document.addEventListener("visibilitychange", () => { if (!document.hidden && isAgain) { isAgain = false; refresh(); } });
  addEventListener("pagehide", () => source?.close());
  addEventListener("pageshow", (event) => { if (event.persisted) { wasAway = true; open(); } });
  // A refresh that fails leaves the page as it is; the sign says so.
  document.addEventListener("htmx:before:swap", (event) => {
    const status = event.detail?.ctx?.response?.status ?? 200;
    if (event.target === main && status >= 500) event.preventDefault();
  });
  document.addEventListener("htmx:error", () => { wasAway = true; show("away", "Reconnecting"); });
  open();
})();
