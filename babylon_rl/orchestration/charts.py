"""Histograms for the Dagster UI: SVG in a data URI inside markdown, drawn without a plotting library."""

import base64
import math
from collections.abc import Sequence
from html import escape

_WIDTH, _HEIGHT, _MARGIN = 520, 180, 28


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
    return _image(_svg(counts, low, high, caption, mark), title)


def _svg(counts: Sequence[int], low: float, high: float, caption: str, mark: float | None) -> str:
    plot_width, plot_height = _WIDTH - 2 * _MARGIN, _HEIGHT - 2 * _MARGIN
    bar = plot_width / len(counts)
    peak = max(counts)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
        f'<text x="{_MARGIN}" y="18" fill="#333">{escape(caption)}</text>',
    ]
    for index, count in enumerate(counts):
        height = plot_height * count / peak
        x, y = _MARGIN + index * bar, _HEIGHT - _MARGIN - height
        parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{bar - 1:.1f}" height="{height:.1f}" fill="#4f43dd"/>'
        )
    if mark is not None and low <= mark <= high:
        x = _MARGIN + (mark - low) / (high - low) * plot_width
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_MARGIN}" y2="{_HEIGHT - _MARGIN}" '
            'stroke="#c00" stroke-dasharray="4 3"/>'
        )
    base = _HEIGHT - 10
    parts.append(f'<text x="{_MARGIN}" y="{base}" fill="#555">{low:.4g}</text>')
    parts.append(f'<text x="{_WIDTH - _MARGIN}" y="{base}" text-anchor="end" fill="#555">{high:.4g}</text>')
    return "".join([*parts, "</svg>"])


def _image(svg: str, title: str) -> str:
    payload = base64.b64encode(svg.encode()).decode()
    return f"![{title.replace(']', ' ')}](data:image/svg+xml;base64,{payload})"
