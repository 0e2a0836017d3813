"""Small pictures as SVG text, drawn without a plotting library: for the Dagster UI, reports and the docs.

Values that are not finite, or beyond 1e15, are left out; where nothing is left to draw, a picture is None.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT, MARGIN = 520, 180, 28
_LABELS, _ROW = 110, 22
_TALL, _LEFT, _BOTTOM = 260, 62, 40
COLOURS = ("#4f43dd", "#d9730d", "#0f7b6c", "#c4314b", "#5b6270", "#8a5cf6", "#2383e2", "#9f6b53")


class Point(NamedTuple):
    """One point of a curve with its interval."""

    x: float
    mean: float
    low: float
    high: float


def histogram(values: Sequence[float], title: str, bins: int = 21, mark: float | None = 0.0) -> str | None:
    """Bars of equal width between the smallest and the largest value, None where they are the same."""
    finite = [float(v) for v in values if _drawable(v)]
    if not finite or _apart(min(finite), max(finite)) != max(finite):
        return None
    low, high = min(finite), max(finite)
    counts = [0] * bins
    for value in finite:
        counts[min(bins - 1, int((value - low) / (high - low) * bins))] += 1
    left_out = len(values) - len(finite)
    caption = f"{title} (n={len(finite)}{f', {left_out} not finite' if left_out else ''})"
    bar, peak, plot = (WIDTH - 2 * MARGIN) / bins, max(counts), HEIGHT - 2 * MARGIN
    bars = [
        _rectangle(MARGIN + i * bar, HEIGHT - MARGIN - plot * count / peak, bar - 1, plot * count / peak)
        for i, count in enumerate(counts)
    ]
    return _svg([*bars, *_axis(low, high, mark, MARGIN, HEIGHT)], caption, HEIGHT)


def intervals(rows: Sequence[tuple[str, float, float, float]], title: str) -> str | None:
    """One line per row: its name, its mean, and from its lower to its upper end."""
    drawn = [row for row in rows if _drawable(*row[1:])]
    if not drawn:
        return None
    low, high = min(0.0, *(row[2] for row in drawn)), max(0.0, *(row[3] for row in drawn))
    high = _apart(low, high)
    height = 2 * MARGIN + _ROW * len(drawn)
    parts = []
    for index, (name, mean, lower, upper) in enumerate(drawn):
        y = MARGIN + _ROW * (index + 0.5)
        left, right, middle = (_position(v, low, high, _LABELS) for v in (lower, upper, mean))
        parts += [
            f'<text x="8" y="{y + 4:.1f}" fill="#333">{escape(name)}</text>',
            _rectangle(left, y - 1, max(1.0, right - left), 2),
            f'<circle cx="{middle:.1f}" cy="{y:.1f}" r="4" fill="{COLOURS[0]}"/>',
        ]
    return _svg([*parts, *_axis(low, high, 0.0, _LABELS, height)], title, height)


def curves(
    series: Mapping[str, Sequence[Point]], title: str, x_label: str = "", names: Sequence[str] = ()
) -> str | None:
    """Lines with their intervals as bands, over a common axis.

    Args:
        names: Labels of x = 0, 1, …; numbers where it is empty.
    """
    drawn = {name: kept for name, points in series.items() if (kept := [p for p in points if _drawable(*p)])}
    if not drawn:
        return None
    everything = [point for points in drawn.values() for point in points]
    x_low, x_high = min(p.x for p in everything), max(p.x for p in everything)
    y_low, y_high = min(0.0, *(p.low for p in everything)), max(0.0, *(p.high for p in everything))
    frame = _Frame(x_low, x_high, y_low, y_high)
    parts = frame.axes(x_label, names)
    for number, (name, points) in enumerate(drawn.items()):
        colour = COLOURS[number % len(COLOURS)]
        upper = [frame.at(p.x, p.high) for p in points]
        lower = [frame.at(p.x, p.low) for p in reversed(points)]
        line = [frame.at(p.x, p.mean) for p in points]
        if any(p.low != p.high for p in points):
            parts.append(f'<polygon points="{" ".join(upper + lower)}" fill="{colour}" fill-opacity="0.15"/>')
        parts.append(f'<polyline points="{" ".join(line)}" fill="none" stroke="{colour}" stroke-width="2"/>')
        if len(points) <= 40:
            for dot in line:
                x, y = dot.split(",")
                parts.append(f'<circle cx="{x}" cy="{y}" r="2.5" fill="{colour}"/>')
        if len(drawn) > 1:
            y = MARGIN + 14 * (number + 1)
            parts.append(_rectangle(_LEFT + 8, y - 8, 10, 8, colour))
            parts.append(f'<text x="{_LEFT + 22}" y="{y}" fill="#333">{escape(name)}</text>')
    return _svg(parts, title, _TALL)


def scatter(
    points: Sequence[tuple[float, float]], title: str, x_label: str = "", y_label: str = ""
) -> str | None:
    """A dot per pair, with both axes through zero marked."""
    kept = [(x, y) for x, y in points if _drawable(x, y)]
    if len(kept) < 2:
        return None
    xs, ys = [x for x, _ in kept], [y for _, y in kept]
    frame = _Frame(min(xs), max(xs), min(0.0, *ys), max(0.0, *ys))
    parts = frame.axes(x_label, ())
    for x, y in kept:
        left, top = frame.at(x, y).split(",")
        parts.append(f'<circle cx="{left}" cy="{top}" r="3" fill="{COLOURS[0]}" fill-opacity="0.5"/>')
    caption = f"{title} (n={len(kept)}){f', up: {y_label}' if y_label else ''}"
    return _svg(parts, caption, _TALL)


class _Frame:
    """Where numbers lie in a tall picture."""

    def __init__(self, x_low: float, x_high: float, y_low: float, y_high: float) -> None:
        self.x_low, self.x_high = x_low, _apart(x_low, x_high)
        self.y_low, self.y_high = y_low, _apart(y_low, y_high)

    def at(self, x: float, y: float) -> str:
        left = _LEFT + (x - self.x_low) / (self.x_high - self.x_low) * (WIDTH - _LEFT - MARGIN)
        plot = _TALL - MARGIN - _BOTTOM
        top = _TALL - _BOTTOM - (y - self.y_low) / (self.y_high - self.y_low) * plot
        return f"{left:.1f},{top:.1f}"

    def axes(self, x_label: str, names: Sequence[str]) -> list[str]:
        parts = []
        for value in (self.y_low, 0.0, self.y_high):
            y = self.at(self.x_low, value).split(",")[1]
            dashes = ' stroke-dasharray="4 3"' if value == 0.0 else ""
            parts += [
                f'<line x1="{_LEFT}" x2="{WIDTH - MARGIN}" y1="{y}" y2="{y}" stroke="#ddd"{dashes}/>',
                _text(_LEFT - 6, float(y) + 4, f"{value:.3g}", "end"),
            ]
        ticks = list(range(len(names))) if names else [self.x_low, self.x_high]
        step = max(1, len(ticks) // 8)
        for value in ticks[::step]:
            label = names[int(value)] if names else f"{value:.4g}"
            x = float(self.at(value, self.y_low).split(",")[0])
            parts.append(_text(x, _TALL - _BOTTOM + 14, label))
        if x_label:
            parts.append(_text(WIDTH / 2, _TALL - 8, x_label))
        return parts


def _drawable(*values: float) -> bool:
    return all(math.isfinite(value) and abs(value) < 1e15 for value in values)


def _apart(low: float, high: float) -> float:
    """An upper end that is clearly above the lower one."""
    size = max(1e-12, abs(low), abs(high))
    return high if high - low > 1e-9 * size else low + max(1.0, abs(low))


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="#555" text-anchor="{anchor}">{escape(text)}</text>'


def _position(value: float, low: float, high: float, left: int) -> float:
    return left + (value - low) / (high - low) * (WIDTH - left - MARGIN)


def _rectangle(x: float, y: float, width: float, height: float, colour: str = COLOURS[0]) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}"/>'


def _axis(low: float, high: float, mark: float | None, left: int, height: int) -> list[str]:
    parts = [
        f'<text x="{left}" y="{height - 10}" fill="#555">{low:.4g}</text>',
        f'<text x="{WIDTH - MARGIN}" y="{height - 10}" text-anchor="end" fill="#555">{high:.4g}</text>',
    ]
    if mark is not None and low <= mark <= high:
        x = _position(mark, low, high, left)
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{MARGIN}" y2="{height - MARGIN}" '
            'stroke="#c00" stroke-dasharray="4 3"/>'
        )
    return parts


def _svg(parts: Sequence[str], caption: str, height: int) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">'
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>'
        f'<text x="{MARGIN}" y="18" fill="#333">{escape(caption)}</text>'
    )
    return "".join([head, *parts, "</svg>"])
