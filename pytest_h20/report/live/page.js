// Fetches what is now and puts it in the place of what was. When nobody answers any more, the page says so and stays as it is.
// What it says stands in the page, in the reader's language.
(function () {
  "use strict";
  var place = document.getElementById("now");
  var state = document.getElementById("state");
  var failed = 0;
  function say(what) { state.textContent = document.getElementById(what).textContent; }
  function again(after) { window.setTimeout(look, after); }
  function look() {
    fetch("now", { cache: "no-store" }).then(function (answer) {
      if (!answer.ok) { throw new Error(String(answer.status)); }
      return answer.text();
    }).then(function (text) {
      failed = 0;
      if (text !== place.dataset.shown) {
        place.dataset.shown = text;
        place.innerHTML = text;
        document.title = place.querySelector("h1").textContent;
      }
      var over = place.querySelector("[data-over]") !== null;
      say(over ? "over" : "fresh");
      if (!over) { again(1000); }
    }).catch(function () {
      failed += 1;
      say("gone");
      if (failed < 30) { again(2000); }
    });
  }
  look();
})();
