"""Small charts for the Dagster UI: the pictures of `benchmark.pictures` in a data URI inside markdown."""

import base64
import math
from collections.abc import Sequence

from babylon_rl.benchmark.pictures import histogram, intervals


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
    if finite and min(finite) == max(finite):
        return f"_{title}: all {len(finite)} values are {finite[0]:.4g}_"
    return as_markdown(histogram(values, title, bins, mark), title)


def intervals_markdown(rows: Sequence[tuple[str, float, float, float]], title: str) -> str:
    """Returns a markdown image with one line per row: its name, its mean, and its interval around it.

    Args:
        rows: Name, mean, lower and upper end; rows with a number that is not finite are left out.
        title: Caption above the lines, with the unit.
    """
    return as_markdown(intervals(rows, title), title)


def as_markdown(svg: str | None, title: str) -> str:
    """Returns a picture as a markdown image, or a sentence where there is none."""
    if svg is None:
        return f"_{title}: no values_"
    payload = base64.b64encode(svg.encode()).decode()
    return f"![{title.replace(']', ' ')}](data:image/svg+xml;base64,{payload})"
