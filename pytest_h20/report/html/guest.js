// We are a guest in pytest-html's page, whose rows are made by its own script. This gives them what screen readers and keyboards
// need: a language, names for the filter boxes, valid lists, logs that can be scrolled with the keyboard.
(function () {
  "use strict";
  document.documentElement.lang = "en";
  function mend() {
    var summary = document.querySelector("body > .summary");
    if (summary) { summary.setAttribute("role", "main"); }
    document.querySelectorAll("input[data-test-result]").forEach(function (box) {
      box.setAttribute("aria-label", "show " + box.dataset.testResult);
    });
    document.querySelectorAll("#environment ul > ul").forEach(function (list) { list.remove(); });
    document.querySelectorAll(".logwrapper:not([tabindex])").forEach(function (log) {
      log.tabIndex = 0;
      log.setAttribute("role", "group");
      log.setAttribute("aria-label", "log");
    });
  }
  new MutationObserver(mend).observe(document.documentElement, { childList: true, subtree: true });
})();
