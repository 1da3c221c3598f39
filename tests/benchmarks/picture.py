"""The ratios as a picture: an SVG of horizontal bars on a logarithmic scale.

A few lines of our own, since bars that grow from 1 to both sides and colours that follow the reader's light or dark
mode are what chart libraries do not draw.
"""

from __future__ import annotations

import math
from typing import Final
from xml.etree import ElementTree as Xml

from tests.benchmarks.results import BarResult, Results

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
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc }
  .ground { fill: #0d1117 }
  .small { fill: #9198a1 }
  .grid { stroke: #3d444d }
  .even { stroke: #9198a1 }
  .faster { fill: #3fb950 }
  .slower { fill: #d29922 }
}
"""


def speeds(results: Results) -> list[tuple[str, BarResult]]:
    """The bars that compare us with others, each with the title of its work."""
    bars = [(work.title[0], bar) for work in results.works for bar in work.bars]
    return [(title, bar) for title, bar in bars if bar.at_least and bar.limit is not None]


def picture(results: Results) -> str:
    """Draw how many times as fast as the others we are, work by work; there must be one at least."""
    rows = speeds(results)
    low, high = _range([bar.value for _, bar in rows])
    bottom = _TOP + _ROW * len(rows)

    def x(value: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * math.log(value / low) / math.log(high / low)

    svg = Xml.Element(
        "svg",
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {_WIDTH} {bottom + 56}",
        role="img",
        attrib={"aria-label": "How many times as fast as other programs pacs-tasks is"},
    )
    Xml.SubElement(svg, "style").text = _STYLE
    Xml.SubElement(svg, "rect", width="100%", height="100%", rx="6", attrib={"class": "ground"})
    _text(svg, 20, 32, "How many times as fast as other programs pacs-tasks is", "title")
    machine = results.machine
    versions = ", ".join(f"{name} {machine.versions[name]}" for name in ("DCMTK", "Orthanc", "pynetdicom"))
    _text(svg, 20, 52, f"One machine, {machine.cores} cores; {versions}; medians; logarithmic scale", "small")
    for tick in (each for each in _TICKS if low <= each <= high):
        _line(svg, x(tick), _TOP, bottom, "even" if tick == 1 else "grid")
        _text(svg, x(tick), bottom + 18, f"{tick:g}\N{MULTIPLICATION SIGN}", "small", "middle")
    for number, (title, bar) in enumerate(rows):
        _row(svg, _TOP + _ROW * number, title, bar, (x(1), x(bar.value)))
    _text(svg, 20, bottom + 44, _LEGEND, "small")
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
