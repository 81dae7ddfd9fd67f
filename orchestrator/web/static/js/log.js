// A log that is followed shows its end.
"use strict";
(() => {
  function toEnd() {
    const log = document.querySelector(".log[data-following]");
    if (log) log.scrollTop = log.scrollHeight;
  }
  document.addEventListener("illume:refreshed", toEnd);
  toEnd();
})();
