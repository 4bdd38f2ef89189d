"""Small drawings for the page of a simulated run: axes, bars, curves as SVG; its style and its script."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

LANE_HEIGHT = 22.0
_W, _H, _LEFT, _BOTTOM = 420.0, 200.0, 48.0, 22.0
_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 21_600, 43_200, 86_400)

STYLE = """
:root{color-scheme:light dark;--ink:#1c2733;--dim:#5d6b7a;--paper:#fff;--line:#d5dce4;--card:#f3f6f9;
--compute:#3f8f5f;--wait:#e2a33b;--join:#4a86c5;--frozen:#8d7bb8;--down:#c8ced6;--exchange:#2b5f9e;
--bad:#c23b3b}
@media(prefers-color-scheme:dark){
:root{--ink:#e4eaf0;--dim:#94a3b3;--paper:#12181f;--line:#33404d;--card:#1b242d;
--compute:#4fae77;--wait:#e0a84a;--join:#5b9bdc;--frozen:#a493d0;--down:#3a4654;--exchange:#7fb2ea;
--bad:#ef7070}}
body{font:14px/1.45 system-ui,sans-serif;color:var(--ink);background:var(--paper);margin:24px auto;
max-width:1180px;padding:0 20px}
h1{font-size:22px;margin:0 0 4px}h2{font-size:16px;margin:28px 0 6px}p{margin:4px 0}.dim{color:var(--dim)}
.broken{color:var(--bad);font-weight:600}
.cards{display:flex;gap:12px;flex-wrap:wrap;margin:14px 0}.cards div{background:var(--card);border-radius:8px;
padding:10px 14px;flex:1;min-width:180px}.cards b{display:block;font-size:20px}.cards span{color:var(--dim)}
.timeline{display:flex}.names{width:110px;flex:none}.names div{height:22px;line-height:18px;font-size:12px;
overflow:hidden;text-overflow:ellipsis;white-space:nowrap;padding-right:8px;text-align:right}
.lanes{flex:1;min-width:0}.lanes svg{width:100%;display:block;background:var(--card);cursor:grab}
.axis{position:relative;height:22px;font-size:11px;color:var(--dim);overflow:hidden}
.axis span{position:absolute;transform:translateX(-50%);white-space:nowrap;padding-top:3px}
.axis span:first-child{transform:none}
i{display:inline-block;width:12px;height:12px;border-radius:2px;margin:0 4px 0 10px;vertical-align:-1px}
.compute{fill:var(--compute);background:var(--compute)}.wait{fill:var(--wait);background:var(--wait)}
.join{fill:var(--join);background:var(--join)}.frozen{fill:var(--frozen);background:var(--frozen)}
.down{fill:var(--down);background:var(--down)}.exchange{fill:var(--exchange);background:var(--exchange)}
.aborted,.unfinished,.alone{fill:var(--bad)}
line.injected{stroke:var(--bad);stroke-width:2;vector-effect:non-scaling-stroke}
line.noted{stroke:var(--ink);stroke-width:1;stroke-dasharray:2 2;vector-effect:non-scaling-stroke}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(360px,1fr));gap:18px}
.plots svg{width:100%}.plots text{font-size:10px;fill:var(--dim)}.plots .title{font-size:12px;fill:var(--ink)}
.plots .grid{stroke:var(--line)}.a{fill:var(--join)}.b{fill:var(--exchange)}.c{fill:var(--wait)}
.curve{fill:none;stroke:var(--join);stroke-width:1.5}
table{border-collapse:collapse;font-size:12px;margin:6px 0}th,td{padding:3px 10px 3px 0;text-align:right;
border-bottom:1px solid var(--line)}th{color:var(--dim);font-weight:500}th:nth-child(-n+3),td:nth-child(-n+3)
{text-align:left}details{margin:20px 0}summary{font-size:16px;font-weight:600;cursor:pointer}
"""

SCRIPT = """
(function () {
  var svg = document.getElementById('lanes'), axis = document.getElementById('axis');
  if (!svg) return;
  var box = svg.getAttribute('viewBox').split(' ').map(Number);
  var full = box[2], total = +svg.dataset.seconds, x = 0, w = full, from = null;
  var steps = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200];
  function two(n) { return ('0' + n).slice(-2); }
  function label(s, step) {
    if (step < 1 || total < 60) return s.toFixed(step < 1 ? 1 : 0) + ' s';
    var r = Math.round(s), m = Math.floor(r / 60);
    return Math.floor(m / 60) + ':' + two(m % 60) + ':' + two(r % 60);
  }
  function draw() {
    w = Math.min(full, Math.max(full / 5000, w));
    x = Math.min(full - w, Math.max(0, x));
    svg.setAttribute('viewBox', x + ' 0 ' + w + ' ' + box[3]);
    var a = x / full * total, b = (x + w) / full * total;
    var step = steps.filter(function (s) { return (b - a) / s <= 9; })[0] || 86400;
    axis.textContent = '';
    for (var t = Math.ceil(a / step) * step; t <= b; t += step) {
      var e = document.createElement('span');
      e.textContent = label(t, step);
      e.style.left = (t - a) / (b - a) * 100 + '%';
      axis.appendChild(e);
    }
  }
  function at(e) { return (e.clientX - svg.getBoundingClientRect().left) / svg.clientWidth; }
  svg.addEventListener('wheel', function (e) {
    e.preventDefault();
    var p = at(e), n = Math.min(full, w * (e.deltaY > 0 ? 1.25 : 0.8));
    x += (w - n) * p; w = n; draw();
  }, {passive: false});
  svg.addEventListener('pointerdown', function (e) {
    from = {p: at(e), x: x}; svg.setPointerCapture(e.pointerId);
  });
  svg.addEventListener('pointermove', function (e) {
    if (from) { x = from.x - (at(e) - from.p) * w; draw(); }
  });
  svg.addEventListener('pointerup', function () { from = null; });
  svg.addEventListener('dblclick', function () { x = 0; w = full; draw(); });
})();
"""


def ticks(start_s: float, end_s: float) -> list[tuple[float, str]]:
    """About eight round moments and how they are written."""
    span = max(end_s - start_s, 1e-9)
    step = next((each for each in _STEPS if span / each <= 9), math.ceil(span / 9 / 86_400) * 86_400)
    first = math.ceil(start_s / step) * step
    return [(float(at), _moment(at, span)) for at in range(first, math.floor(end_s) + 1, step)]


def _moment(at: int, span: float) -> str:
    return f"{at} s" if span < 60 else f"{at // 3600}:{at // 60 % 60:02}:{at % 60:02}"


def stacked(title: str, rows: Sequence[tuple[str, tuple[float, ...]]], layers: Sequence[str]) -> str:
    """Bars of parts on each other, one for each row."""
    top = max((sum(parts) for _, parts in rows), default=0.0)
    shapes = []
    width = (_W - _LEFT) / max(1, len(rows))
    base = _H - _BOTTOM
    for index, (name, parts) in enumerate(rows):
        below = 0.0
        for kind, part, layer in zip("abc"[: len(layers)], parts, layers, strict=True):
            if part > 0 and top > 0:
                scale = (base - 24) / top
                tall, low = part * scale, below * scale
                shapes.append(
                    f'<rect class="{kind}" x="{_LEFT + index * width:.2f}" y="{base - low - tall:.2f}"'
                    f' width="{max(0.3, width * 0.85):.2f}" height="{tall:.2f}">'
                    f"<title>{escape(name)}: {layer} {part:,.2f}</title></rect>"
                )
            below += part
    legend = "".join(
        f'<tspan class="{kind}"> \u25a0 </tspan><tspan>{escape(layer)}</tspan>'
        for kind, layer in zip("abc"[: len(layers)], layers, strict=True)
    )
    return _frame(title, top, "".join(shapes), legend if len(layers) > 1 else "", _ends(rows))


def bars(title: str, rows: Sequence[tuple[str, float]]) -> str:
    """One bar for each row."""
    return stacked(title, [(name, (value,)) for name, value in rows], ("",))


def curve(title: str, points: Sequence[tuple[float, float]]) -> str:
    """A line through points; the axis of values begins at the least of them."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    low, high = min(ys), max(ys)
    wide, tall = max(xs) - min(xs) or 1.0, high - low or 1.0
    place = [
        f"{_LEFT + (x - min(xs)) / wide * (_W - _LEFT - 6):.2f},"
        f"{_H - _BOTTOM - (y - low) / tall * (_H - _BOTTOM - 24):.2f}"
        for x, y in points
    ]
    shape = f'<polyline class="curve" points="{" ".join(place)}"/>'
    return _frame(title, high, shape, "", (f"{min(xs):,.0f}", f"{max(xs):,.0f}"), low)


def _ends(rows: Sequence[tuple[str, tuple[float, ...]]]) -> tuple[str, str]:
    return (rows[0][0], rows[-1][0]) if rows else ("", "")


def _frame(
    title: str, top: float, shapes: str, legend: str, ends: tuple[str, str], bottom: float = 0.0
) -> str:
    base = _H - _BOTTOM
    return (
        f'<svg viewBox="0 0 {_W:g} {_H:g}" role="img"><text class="title" x="0" y="12">{escape(title)}</text>'
        f'<text x="{_W:g}" y="12" text-anchor="end">{legend}</text>'
        f'<line class="grid" x1="{_LEFT:g}" x2="{_W:g}" y1="{base:g}" y2="{base:g}"/>'
        f'<line class="grid" x1="{_LEFT:g}" x2="{_W:g}" y1="24" y2="24"/>'
        f'<text x="{_LEFT - 6:g}" y="28" text-anchor="end">{_short(top)}</text>'
        f'<text x="{_LEFT - 6:g}" y="{base:g}" text-anchor="end">{_short(bottom)}</text>{shapes}'
        f'<text x="{_LEFT:g}" y="{_H - 6:g}">{escape(ends[0])}</text>'
        f'<text x="{_W:g}" y="{_H - 6:g}" text-anchor="end">{escape(ends[1])}</text></svg>'
    )


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
