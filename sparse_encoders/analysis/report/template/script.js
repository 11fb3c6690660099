// Figures by Plotly in the colours of the style sheet, and tables that sort by a click on a head.
(function () {
  "use strict";
  var dark = matchMedia("(prefers-color-scheme: dark)");
  var touch = matchMedia("(pointer: coarse)").matches;

  function colour(name) {
    return getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  }

  function draw() {
    document.querySelectorAll(".plot").forEach(function (place) {
      var figure = JSON.parse(place.nextElementSibling.textContent);
      figure.data.forEach(function (trace) {
        var meta = trace.meta || {};
        var own = "part" in meta ? colour("b" + meta.part) : colour("c" + (meta.colour || 0) % 8);
        trace.marker = Object.assign({}, trace.marker, { color: own });
        trace.line = { color: own };
        if (trace.error_y) { trace.error_y.color = own; }
      });
      var layout = Object.assign(figure.layout, {
        paper_bgcolor: "rgba(0,0,0,0)",
        plot_bgcolor: "rgba(0,0,0,0)",
        font: { color: colour("ink"), family: "system-ui, sans-serif", size: 12 },
        hoverlabel: { bgcolor: colour("card"), font: { color: colour("ink") } },
        // a finger on a plot scrolls the page; the buttons zoom
        dragmode: touch ? false : "zoom"
      });
      [layout.xaxis, layout.yaxis].forEach(function (axis) { axis.gridcolor = colour("rule"); });
      Plotly.react(place, figure.data, layout, { responsive: true, displaylogo: false });
    });
  }

  function sort(head) {
    var table = head.closest("table"), body = table.tBodies[0], place = head.cellIndex;
    var up = head.getAttribute("aria-sort") !== "ascending";
    table.querySelectorAll("th").forEach(function (th) { th.removeAttribute("aria-sort"); });
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    function value(row) { return row.cells[place].textContent.trim(); }
    Array.from(body.rows).sort(function (one, other) {
      var a = value(one), b = value(other);
      if (a === "-" || b === "-") { return (a === "-") - (b === "-"); }  // nothing last, both ways
      var known = !isNaN(a) && !isNaN(b), order = known ? a - b : a.localeCompare(b);
      return up ? order : -order;
    }).forEach(function (row) { body.appendChild(row); });
  }

  document.querySelectorAll("thead th").forEach(function (head) {
    var button = document.createElement("button");
    button.type = "button";
    button.append.apply(button, Array.from(head.childNodes));
    button.addEventListener("click", function () { sort(head); });
    head.appendChild(button);
  });
  draw();
  dark.addEventListener("change", draw);
}());
