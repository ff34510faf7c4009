"""Recall over depth as an SVG, one line for each way to rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

from bench.recall.measures import DEPTHS

_WIDTH, _HEIGHT, _LEFT, _TOP, _LEGEND = 420, 320, 50, 40, 190
_COLOURS = ("#c2410c", "#0f766e", "#1d4ed8", "#7e22ce", "#4d7c0f", "#64748b", "#be185d", "#a16207")


def svg(title: str, lines: Mapping[str, Sequence[float]]) -> str:
    """A chart of percentages at `DEPTHS`; the legend has the lines from the best to the worst at the first depth."""
    low = min(10 * int(value // 10) for line in lines.values() for value in line)

    def x(place: int) -> float:
        return _LEFT + _WIDTH * place / (len(DEPTHS) - 1)

    def y(value: float) -> float:
        return _TOP + _HEIGHT * (100 - value) / (100 - low)

    parts = [f'<text x="{_LEFT}" y="20" font-size="14" font-weight="bold">{escape(title)}</text>']
    for value in range(low, 101, 10):
        parts.append(f'<path d="M{_LEFT},{y(value):.1f}h{_WIDTH}" stroke="#e2e8f0"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value}</text>')
    for place, depth in enumerate(DEPTHS):
        parts.append(f'<text x="{x(place)}" y="{_TOP + _HEIGHT + 18}" text-anchor="middle">{depth}</text>')
    middle = _LEFT + _WIDTH / 2
    parts.append(f'<text x="{middle}" y="{_TOP + _HEIGHT + 38}" text-anchor="middle">messages delivered (k)</text>')
    ordered = sorted(lines.items(), key=lambda item: -item[1][0])
    for number, (name, line) in enumerate(ordered):
        colour = _COLOURS[number % len(_COLOURS)]
        points = " ".join(f"{x(place):.1f},{y(value):.1f}" for place, value in enumerate(line))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        at = _TOP + 12 + 20 * number
        parts.append(f'<path d="M{_LEFT + _WIDTH + 16},{at - 4}h18" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{_LEFT + _WIDTH + 40}" y="{at}">{escape(name)}</text>')
    size = f'width="{_LEFT + _WIDTH + _LEGEND}" height="{_TOP + _HEIGHT + 50}"'
    style = 'font-family="sans-serif" font-size="12"'
    # Pages may be dark.
    paper = '<rect width="100%" height="100%" fill="white"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>\n{paper}\n' + "\n".join(parts) + "\n</svg>\n"
