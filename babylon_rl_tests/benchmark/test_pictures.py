"""Pictures are valid SVG, hold what they were given, and say nothing where there is nothing."""

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from babylon_rl.benchmark.pictures import Point, curves, histogram, intervals, scatter

SVG = "{http://www.w3.org/2000/svg}"
floats = st.floats(allow_nan=True, allow_infinity=True, width=32)


def parsed(svg: str | None) -> ElementTree.Element:
    assert svg is not None
    return ElementTree.fromstring(svg)


def test_a_curve_has_its_points_its_band_and_its_names() -> None:
    rising = [Point(x, x / 10, x / 10 - 0.1, x / 10 + 0.1) for x in range(4)]
    svg = parsed(curves({"a<b": rising, "flat": [Point(0, 1, 1, 1)]}, "Title", "day", ["w", "x", "y", "z"]))
    assert len(svg.findall(f"{SVG}polyline")) == 2 and len(svg.findall(f"{SVG}polygon")) == 1
    assert len(svg.findall(f"{SVG}circle")) == 5
    texts = [text.text for text in svg.findall(f"{SVG}text")]
    assert {"a<b", "flat", "w", "z", "day", "Title"} <= set(texts)


def test_a_scatter_counts_its_dots() -> None:
    svg = parsed(scatter([(1.0, 2.0), (2.0, float("nan")), (3.0, -1.0)], "T", "x", "y"))
    assert len(svg.findall(f"{SVG}circle")) == 2
    assert "T (n=2), up: y" in [text.text for text in svg.findall(f"{SVG}text")]


def test_nothing_to_draw_is_none() -> None:
    assert histogram([], "t") is histogram([1.0, 1.0], "t") is intervals([], "t") is None
    assert curves({}, "t") is curves({"a": [Point(0, float("nan"), 0, 0)]}, "t") is None
    assert scatter([(1.0, 1.0)], "t") is None


@given(st.lists(st.tuples(floats, floats, floats, floats), max_size=8))
def test_any_numbers_give_a_picture_or_none(rows: list[tuple[float, float, float, float]]) -> None:
    drawings = (
        curves({"<&>": [Point(*row) for row in rows]}, "<t>"),
        intervals([("n", *row[1:]) for row in rows], "<t>"),
        scatter([row[:2] for row in rows], "<t>"),
        histogram([row[0] for row in rows], "<t>"),
    )
    for svg in drawings:
        if svg is not None:
            assert "nan" not in svg and "inf" not in svg.replace("sans-serif", "")
            ElementTree.fromstring(svg)


@pytest.mark.parametrize("value", [0.0, 1e-300, -5e14])
def test_extreme_values_are_drawn(value: float) -> None:
    parsed(curves({"a": [Point(0, value, value, value), Point(1, value, value, value)]}, "t"))
