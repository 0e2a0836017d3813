"""Small charts for the Dagster UI: SVG in a data URI inside markdown, drawn without a plotting library."""

import base64
import math
from collections.abc import Sequence
from html import escape

_WIDTH, _HEIGHT, _MARGIN = 520, 180, 28
_LABELS = 110
_ROW = 22


def histogram_markdown(
    values: Sequence[float], title: str, *, bins: int = 21, mark: float | None = 0.0
) -> str:
    """Returns a markdown image with the histogram of `values`, or a sentence when there is nothing to draw.

    Args:
        values: The sample; values that are not finite are left out and counted in the caption.
        title: Caption above the bars, with the unit.
        bins: Number of equally wide bins between the smallest and the largest value.
        mark: A value to show as a dashed vertical line (zero by default), None for no line.
    """
    finite = [float(v) for v in values if math.isfinite(v)]
    if not finite:
        return f"_{title}: no values_"
    low, high = min(finite), max(finite)
    if low == high:
        return f"_{title}: all {len(finite)} values are {low:.4g}_"
    counts = [0] * bins
    for value in finite:
        counts[min(bins - 1, int((value - low) / (high - low) * bins))] += 1
    left_out = len(values) - len(finite)
    caption = f"{title} (n={len(finite)}{f', {left_out} not finite' if left_out else ''})"
    bar, peak, plot = (_WIDTH - 2 * _MARGIN) / bins, max(counts), _HEIGHT - 2 * _MARGIN
    bars = [
        _rectangle(_MARGIN + i * bar, _HEIGHT - _MARGIN - plot * count / peak, bar - 1, plot * count / peak)
        for i, count in enumerate(counts)
    ]
    return _image([*bars, *_axis(low, high, mark, _MARGIN, _HEIGHT)], caption, title, _HEIGHT)


def intervals_markdown(rows: Sequence[tuple[str, float, float, float]], title: str) -> str:
    """Returns a markdown image with one line per row: its name, its mean, and its interval around it.

    Args:
        rows: Name, mean, lower and upper end; rows with a number that is not finite are left out.
        title: Caption above the lines, with the unit.
    """
    drawn = [row for row in rows if all(map(math.isfinite, row[1:]))]
    if not drawn:
        return f"_{title}: no values_"
    low, high = min(0.0, *(row[2] for row in drawn)), max(0.0, *(row[3] for row in drawn))
    high = high if high > low else low + 1.0
    height = 2 * _MARGIN + _ROW * len(drawn)
    parts = []
    for index, (name, mean, lower, upper) in enumerate(drawn):
        y = _MARGIN + _ROW * (index + 0.5)
        left, right, middle = (_position(v, low, high, _LABELS) for v in (lower, upper, mean))
        parts += [
            f'<text x="8" y="{y + 4:.1f}" fill="#333">{escape(name)}</text>',
            _rectangle(left, y - 1, max(1.0, right - left), 2),
            f'<circle cx="{middle:.1f}" cy="{y:.1f}" r="4" fill="#4f43dd"/>',
        ]
    return _image([*parts, *_axis(low, high, 0.0, _LABELS, height)], title, title, height)


def _position(value: float, low: float, high: float, left: int) -> float:
    return left + (value - low) / (high - low) * (_WIDTH - left - _MARGIN)


def _rectangle(x: float, y: float, width: float, height: float) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="#4f43dd"/>'


def _axis(low: float, high: float, mark: float | None, left: int, height: int) -> list[str]:
    parts = [
        f'<text x="{left}" y="{height - 10}" fill="#555">{low:.4g}</text>',
        f'<text x="{_WIDTH - _MARGIN}" y="{height - 10}" text-anchor="end" fill="#555">{high:.4g}</text>',
    ]
    if mark is not None and low <= mark <= high:
        x = _position(mark, low, high, left)
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_MARGIN}" y2="{height - _MARGIN}" '
            'stroke="#c00" stroke-dasharray="4 3"/>'
        )
    return parts


def _image(parts: Sequence[str], caption: str, title: str, height: int) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        'font-family="sans-serif" font-size="12">'
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>'
        f'<text x="{_MARGIN}" y="18" fill="#333">{escape(caption)}</text>'
    )
    payload = base64.b64encode("".join([head, *parts, "</svg>"]).encode()).decode()
    return f"![{title.replace(']', ' ')}](data:image/svg+xml;base64,{payload})"
