"""The histogram that the Dagster UI shows."""

import base64
import re
from xml.etree import ElementTree

from babylon_rl.orchestration.charts import histogram_markdown, intervals_markdown


def test_a_histogram_is_an_svg_image_whose_bars_hold_every_value():
    markdown = histogram_markdown([-1.0, -0.5, 0.0, 0.5, 0.5, 2.0], "P&L per episode, $", bins=3)
    match = re.fullmatch(r"!\[P&L per episode, \$\]\(data:image/svg\+xml;base64,(.+)\)", markdown)
    assert match
    svg = ElementTree.fromstring(base64.b64decode(match.group(1)))
    bars = svg.findall("{http://www.w3.org/2000/svg}rect")[1:]
    heights = [float(bar.attrib["height"]) for bar in bars]
    assert len(heights) == 3
    assert heights[1] == max(heights)
    assert svg.find("{http://www.w3.org/2000/svg}line") is not None, "zero is marked"


def test_values_that_cannot_be_drawn_are_said_in_words():
    assert "no values" in histogram_markdown([], "reward")
    assert "no values" in histogram_markdown([float("nan")], "reward")
    assert "all 3 values are 1" in histogram_markdown([1.0, 1.0, 1.0], "reward")
    assert (
        "1 not finite"
        in base64.b64decode(
            histogram_markdown([0.0, 1.0, float("inf")], "reward").split("base64,")[1].rstrip(")")
        ).decode()
    )


def test_intervals_are_drawn_around_zero_and_unknown_ones_left_out():
    markdown = intervals_markdown(
        [("candidate", 0.02, 0.01, 0.03), ("base", -0.01, -0.02, 0.0), ("hold", float("nan"), 0.0, 0.0)],
        "Return per window",
    )
    svg = base64.b64decode(markdown.split("base64,")[1].rstrip(")")).decode()
    assert svg.count("<circle") == 2
    assert "candidate" in svg
    assert "hold" not in svg
    assert "no values" in intervals_markdown([], "Return per window")
