"""Style sheet and script of the page: light and dark, and tables that sort."""

CSS = (
    """
:root{color-scheme:light dark;
--page:#f6f7f9;--card:#fff;--ink:#1b2230;--soft:#5b6577;--rule:#dfe3ea;--accent:#0b63ce;
--win:#e8f3ec;--good:#12703f;--bad:#b3261e;
--c0:#5b6577;--c1:#d1495b;--c2:#0b63ce;--c3:#b07400;--c4:#12805c;--c5:#7b4bb7;--c6:#a3426f;--c7:#2f7f93;
--b0:#b9c2d0;--b1:#d8c48c;--b2:#3f88d8;--b3:#79b791}
@media (prefers-color-scheme:dark){:root{
--page:#12161d;--card:#1b212b;--ink:#e8ebf0;--soft:#9aa5b6;--rule:#323b49;--accent:#7ab6ff;
--win:#183126;--good:#7bd3a3;--bad:#ff8a80;
--c0:#a9b4c4;--c1:#ff8094;--c2:#6db1ff;--c3:#f0bb4d;--c4:#58d0a3;--c5:#c29bff;--c6:#ef8fbd;--c7:#78cfe4;
--b0:#5a6678;--b1:#9a8650;--b2:#3f88d8;--b3:#4f8f69}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1240px;margin:0 auto;padding:20px 24px 60px}
header p{margin:0;color:var(--soft)}
h1{font-size:26px;line-height:1.25;margin:4px 0 16px;max-width:60ch}
h2{font-size:19px;margin:36px 0 6px}
h3{font-size:15px;margin:0 0 2px}
p{margin:6px 0}
.note{color:var(--soft);font-size:13.5px}
.tiles{display:flex;flex-wrap:wrap;gap:12px;margin:0 0 16px}
.tile{flex:1 1 150px;padding:10px 14px}
.card,.tile,.scroll{background:var(--card);border:1px solid var(--rule);border-radius:8px}
.tile b{display:block;font-size:25px;line-height:1.2}
.tile span{color:var(--soft);font-size:13px}
.first{display:grid;grid-template-columns:minmax(0,1fr) minmax(0,1.1fr);gap:16px}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:16px}
.card{padding:14px 16px}
.card ul{margin:4px 0 10px;padding-left:19px}
.card li{margin:4px 0}
.sure{color:var(--soft);font-size:13.5px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:13.5px;font-variant-numeric:tabular-nums}
th,td{padding:6px 10px;text-align:right;border-bottom:1px solid var(--rule);white-space:nowrap}
th:first-child,td:first-child{text-align:left}
tbody tr:last-child td{border-bottom:0}
th{vertical-align:bottom;padding:0}
th button{all:unset;box-sizing:border-box;width:100%;padding:7px 10px;cursor:pointer;
font-weight:600;white-space:normal}
th button:hover,th button:focus-visible{color:var(--accent);text-decoration:underline}
th button::after{content:"\\2195";opacity:.35;margin-left:4px}
th[aria-sort=ascending] button::after{content:"\\2191";opacity:1}
th[aria-sort=descending] button::after{content:"\\2193";opacity:1}
tr.winner td{background:var(--win)}
tr.baseline td:first-child::after{content:" baseline";color:var(--soft);font-size:12px}
td.bad{color:var(--bad);font-weight:600}
td.higher,td.faster{color:var(--good)}
td.lower,td.slower{color:var(--bad)}
.legend{display:flex;flex-wrap:wrap;gap:4px 14px;font-size:13px;margin:4px 0}
.legend span{display:inline-flex;align-items:center;gap:5px}
svg.plot{display:block;width:100%;height:auto}
svg .grid{stroke:var(--rule)}
svg .tick{fill:var(--soft);font-size:12px}
svg .axis{fill:var(--ink);font-size:13px}
svg .label{fill:var(--ink);font-size:11.5px;paint-order:stroke;stroke:var(--card);stroke-width:3px}
svg .line{fill:none;stroke-width:2;opacity:.75}
svg .error{stroke-width:1.5;opacity:.45}
svg .mark{stroke:var(--card);stroke-width:1}
figure{margin:0 0 16px}
figure img{max-width:100%;height:auto;border-radius:6px;background:#fff}
dl{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:4px 16px;
margin:0;font-size:14px}
dt{color:var(--soft)}
dd{margin:0;overflow-wrap:anywhere}
code{font:13px ui-monospace,monospace}
@media (max-width:820px){.first{grid-template-columns:1fr}}
@media print{body{background:#fff}}
"""
    + "".join(
        f"svg .s{i}{{stroke:var(--c{i % 8})}}svg .m{i}{{fill:var(--c{i % 8})}}" for i in range(16)
    )
    + "".join(f"svg .b{i}{{fill:var(--b{i})}}" for i in range(4))
)

JS = """
document.querySelectorAll("th button").forEach(function (button) {
  button.addEventListener("click", function () {
    var head = button.parentNode, table = head.closest("table"), body = table.tBodies[0];
    var up = head.getAttribute("aria-sort") !== "ascending", place = head.cellIndex;
    table.querySelectorAll("th").forEach(function (th) { th.removeAttribute("aria-sort"); });
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    function value(row) { return row.cells[place].dataset.value; }
    Array.from(body.rows).sort(function (one, other) {
      var a = value(one), b = value(other);
      if (a === "" || b === "") { return (a === "") - (b === ""); }  // nothing last, both ways
      var known = !isNaN(a) && !isNaN(b), order = known ? a - b : a.localeCompare(b);
      return up ? order : -order;
    }).forEach(function (row) { body.appendChild(row); });
  });
});
"""
