"""The ratios as a picture, horizontal bars on a logarithmic scale, and what jobs did over time: both are SVG.

A few lines of our own, since bars that grow from 1 to both sides and colours that follow the reader's light or dark
mode are what chart libraries do not draw.
"""

from __future__ import annotations

import math
from typing import Final
from xml.etree import ElementTree as Xml

from tests.benchmarks.results import BarResult, Results, Sample, Trace

_WIDTH: Final = 900
_LEFT, _RIGHT = 430, 840
_TOP, _ROW, _BAR = 70, 44, 18
_TICKS: Final = (0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200)
_LEGEND: Final = (
    "CT500: 500 CT of 512 × 512 pixels. SMALL2000: 2,000 of 64 × 64. "
    "Tuned: TCP_NODELAY=1 for DCMTK's programs on both sides."
)
#: It has a ground of its own, so that it can be read wherever it is shown.
_STYLE: Final = """
text { font: 13px -apple-system, "Segoe UI", "Noto Sans", Helvetica, Arial, sans-serif; fill: #1f2328 }
.ground { fill: #ffffff }
.title { font-size: 17px; font-weight: 600 }
.small { font-size: 11.5px; fill: #59636e }
.value { font-weight: 600 }
.grid { stroke: #d1d9e0 }
.even { stroke: #59636e; stroke-width: 1.5 }
.faster { fill: #1a7f37 }
.slower { fill: #9a6700 }
.associations { fill: none; stroke: #0969da; stroke-width: 2 }
.rate { fill: none; stroke: #1a7f37; stroke-width: 2 }
.of-associations { fill: #0969da }
.of-rate { fill: #1a7f37 }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc }
  .ground { fill: #0d1117 }
  .small { fill: #9198a1 }
  .grid { stroke: #3d444d }
  .even { stroke: #9198a1 }
  .faster { fill: #3fb950 }
  .slower { fill: #d29922 }
  .associations { stroke: #4493f8 }
  .rate { stroke: #3fb950 }
  .of-associations { fill: #4493f8 }
  .of-rate { fill: #3fb950 }
}
"""


def speeds(results: Results) -> list[tuple[str, BarResult]]:
    """The bars that compare us with others, each with the title of its work."""
    bars = [(work.title[0], bar) for work in results.works for bar in work.bars]
    return [(title, bar) for title, bar in bars if not bar.own and bar.limit is not None]


def picture(results: Results) -> str:
    """Draw how many times as fast as the others we are, work by work; there must be one at least."""
    rows = speeds(results)
    low, high = _range([bar.value for _, bar in rows])
    bottom = _TOP + _ROW * len(rows)

    def x(value: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * math.log(value / low) / math.log(high / low)

    title = "How many times as fast as other programs pacs-tasks is"
    svg = _sheet(title, bottom + 56)
    machine = results.machine
    versions = ", ".join(f"{name} {machine.versions[name]}" for name in ("DCMTK", "Orthanc", "pynetdicom"))
    _text(svg, 20, 52, f"One machine, {machine.cores} cores; {versions}; medians; logarithmic scale", "small")
    for tick in (each for each in _TICKS if low <= each <= high):
        _line(svg, x(tick), _TOP, bottom, "even" if tick == 1 else "grid")
        _text(svg, x(tick), bottom + 18, f"{tick:g}\N{MULTIPLICATION SIGN}", "small", "middle")
    for number, (title, bar) in enumerate(rows):
        _row(svg, _TOP + _ROW * number, title, bar, (x(1), x(bar.value)))
    _text(svg, 20, bottom + 44, _LEGEND, "small")
    return _written(svg)


def _sheet(title: str, height: int) -> Xml.Element:
    """An empty picture with its title."""
    svg = Xml.Element(
        "svg",
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {_WIDTH} {height}",
        role="img",
        attrib={"aria-label": title},
    )
    Xml.SubElement(svg, "style").text = _STYLE
    Xml.SubElement(svg, "rect", width="100%", height="100%", rx="6", attrib={"class": "ground"})
    _text(svg, 20, 32, title, "title")
    return svg


def _written(svg: Xml.Element) -> str:
    Xml.indent(svg)
    return Xml.tostring(svg, encoding="unicode") + "\n"


def _range(values: list[float]) -> tuple[float, float]:
    """The ticks between which all values and 1 lie."""
    least, most = min([*values, 1]), max([*values, 1])
    below = [tick for tick in _TICKS if tick <= least]
    above = [tick for tick in _TICKS if tick >= most]
    return below[-1] if below else least, above[0] if above else most


def _row(svg: Xml.Element, y: int, title: str, bar: BarResult, ends: tuple[float, float]) -> None:
    _text(svg, 20, y + 18, title.replace("`", ""))
    _text(svg, 20, y + 34, f"against {bar.against[0].replace('`', '')}", "small")
    start, stop = min(ends), max(ends)
    Xml.SubElement(
        svg,
        "rect",
        x=f"{start:.1f}",
        y=str(y + (_ROW - _BAR) // 2),
        width=f"{max(stop - start, 1):.1f}",
        height=str(_BAR),
        rx="2",
        attrib={"class": "faster" if bar.value >= 1 else "slower"},
    )
    _text(svg, max(ends) + 8, y + _ROW // 2 + 5, f"{bar.value:.2f}" if bar.value < 10 else f"{bar.value:.0f}", "value")


def _text(svg: Xml.Element, x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> None:
    attributes = {"class": kind, "text-anchor": anchor}
    Xml.SubElement(svg, "text", x=f"{x:.1f}", y=f"{y:.1f}", attrib=attributes).text = text


def _line(svg: Xml.Element, x: float, top: float, bottom: float, kind: str) -> None:
    Xml.SubElement(svg, "line", x1=f"{x:.1f}", x2=f"{x:.1f}", y1=str(top), y2=str(bottom), attrib={"class": kind})


#: Of the picture of associations over time: where its panels lie, and the seconds of one point of a rate.
_PANEL: Final = 250
_PANEL_LEFT, _PANEL_RIGHT, _PANEL_HEIGHT = 60, 840, 150
_SECOND: Final = 1.0
_MOST_TICKS: Final = 12


def traces(results: Results) -> list[Trace]:
    """What jobs did over time."""
    return [trace for work in results.works for trace in work.traces if len(trace.samples) > 1]


def over_time(some: list[Trace]) -> str:
    """Draw associations and rate of each job, one panel below the other; there must be one at least."""
    svg = _sheet("Associations and rate, as pacs-tasks tunes itself", _TOP + _PANEL * len(some))
    for number, trace in enumerate(some):
        _panel(svg, _TOP + _PANEL * number, trace)
    return _written(svg)


def _panel(svg: Xml.Element, top: int, trace: Trace) -> None:
    rates = _rates(trace.samples)
    most = max(1, *(each.associations for each in trace.samples))
    fastest = max([1.0, *(rate for _, rate in rates)])
    end, bottom = trace.samples[-1].at, top + 24 + _PANEL_HEIGHT

    def x(at: float) -> float:
        return _PANEL_LEFT + (_PANEL_RIGHT - _PANEL_LEFT) * at / end

    def y(share: float) -> float:
        return bottom - _PANEL_HEIGHT * share

    _text(svg, 20, top + 6, trace.title)
    _text(svg, _PANEL_LEFT - 8, y(1) + 4, str(most), "small of-associations", "end")
    _text(svg, _PANEL_RIGHT + 8, y(1) + 4, f"{fastest:.0f}", "small of-rate")
    for height in (0, 1):
        attributes = {"x1": str(_PANEL_LEFT), "x2": str(_PANEL_RIGHT), "y1": str(y(height)), "y2": str(y(height))}
        Xml.SubElement(svg, "line", attrib={**attributes, "class": "grid"})
    step = max(1, math.ceil(end / _MOST_TICKS))
    for second in range(0, int(end) + 1, step):
        _text(svg, x(second), bottom + 16, f"{second} s", "small", "middle")
    if trace.mark is not None:
        _line(svg, x(trace.mark), top + 24, bottom, "even")
        _text(svg, x(trace.mark) + 4, top + 34, trace.mark_title, "small")
    counts = [(each.at, each.associations) for each in trace.samples]
    _curve(svg, [(x(at), y(count / most)) for at, count in counts], "associations")
    _curve(svg, [(x(at), y(rate / fastest)) for at, rate in rates], "rate")
    _text(svg, _PANEL_LEFT, bottom + 36, "associations", "small of-associations")
    _text(svg, _PANEL_LEFT + 90, bottom + 36, "instances a second", "small of-rate")


def _rates(samples: tuple[Sample, ...]) -> list[tuple[float, float]]:
    """Instances a second, each over the second before it."""
    found, first = [], 0
    for sample in samples:
        while sample.at - samples[first].at > _SECOND:
            first += 1
        seconds = sample.at - samples[first].at
        if seconds > _SECOND / 2:
            found.append((sample.at, (sample.recorded - samples[first].recorded) / seconds))
    return found


def _curve(svg: Xml.Element, points: list[tuple[float, float]], kind: str) -> None:
    drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    Xml.SubElement(svg, "polyline", points=drawn, attrib={"class": kind})
