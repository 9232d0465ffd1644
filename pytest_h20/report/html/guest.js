// We are a guest in pytest-html's page, whose rows are made by its own script. This gives them what screen readers and keyboards
// need: a language, a landmark, names for the filter boxes, valid lists, logs that can be scrolled with the keyboard. Where our part is in
// another language than English, it brings the words of that page along, and they take the place of its own.
(function () {
  "use strict";
  var ours = document.querySelector(".h20[lang]");
  var words = JSON.parse((ours && ours.dataset.words) || "{}");
  var phrases = Object.keys(words).sort(function (a, b) { return b.length - a.length; });
  var PLACES = "#title + p, h2, #results-table th, .col-result, .run-count, .filter, .filters span, .collapse button," +
    " .summary__reload__button div, #not-found-message td, .logwrapper .log";
  document.documentElement.lang = ours ? ours.lang : "en";
  function said(text) {
    return words[text] || text;
  }
  function translate(node) {
    var text = node.nodeValue;
    if (words[text.trim()]) { text = text.replace(text.trim(), words[text.trim()]); }
    else if (!node.parentNode.closest(".log, .h20")) { phrases.forEach(function (phrase) { text = text.split(phrase).join(words[phrase]); }); }
    if (text !== node.nodeValue) { node.nodeValue = text; }
  }
  function mend() {
    document.querySelectorAll("input[data-test-result]").forEach(function (box) {
      box.setAttribute("aria-label", said("show") + " " + box.dataset.testResult);
    });
    document.querySelectorAll("#environment ul > ul").forEach(function (list) { list.remove(); });
    document.querySelectorAll(".logwrapper:not([tabindex])").forEach(function (log) {
      log.tabIndex = 0;
      log.setAttribute("role", "group");
      log.setAttribute("aria-label", said("log"));
    });
    if (phrases.length) {
      document.querySelectorAll(PLACES).forEach(function (place) {
        place.childNodes.forEach(function (node) { if (node.nodeType === 3 && node.nodeValue.trim()) { translate(node); } });
      });
    }
  }
  // all of it is the content of the page; pytest-html's script, which runs before this, is done with looking for its places
  document.addEventListener("DOMContentLoaded", function () {
    var main = document.createElement("main");
    main.className = "h20-guest";
    main.append.apply(main, document.body.childNodes);
    document.body.append(main);
  });
  new MutationObserver(mend).observe(document.documentElement, { childList: true, subtree: true });
})();
