"""Metadata as a person reads it."""

import math

from babylon_rl.orchestration.reporting import markdown_table, shown, table

COLUMNS = (("agent", "text", "Who."), ("reward", "float8", "What for."))


def test_figures_have_six_digits_and_gaps_instead_of_zeros():
    metadata = {"share": 0.8333333333333334, "tiny": 1.23456789e-9, "usd": 1234.5678, "rows": 12345678}
    assert shown(metadata) == {"share": 0.833333, "tiny": 1.23457e-9, "usd": 1234.57, "rows": 12345678}
    assert shown({"a": None, "b": math.nan, "c": -math.inf, "d": 0.0, "e": 0}) == {"d": 0.0, "e": 0}


def test_what_says_nothing_has_no_row():
    assert shown({"reason": "", "status": "scored", "leaks": markdown_table(("agent",), [])}) == {
        "status": "scored"
    }
    assert table(COLUMNS, []) is None


def test_a_table_has_a_schema_and_counts_what_it_does_not_show():
    rows = [(f"agent-{number}", number / 3) for number in range(7)]
    found = table(COLUMNS, rows, limit=2)
    assert found is not None
    assert [(c.name, c.type, c.description) for c in found.schema.columns] == list(COLUMNS)
    assert [dict(record.data) for record in found.records] == [
        {"agent": "agent-0", "reward": 0.0},
        {"agent": "agent-1", "reward": 0.333333},
        {"agent": "… and 5 more", "reward": None},
    ]
    unsaid = table(COLUMNS, [(None, math.nan)])
    assert unsaid is not None and dict(unsaid.records[0].data) == {"agent": None, "reward": None}


def test_a_markdown_table_escapes_its_cells_and_keeps_prices_readable():
    found = markdown_table(("agent", "price"), [("a|b", 98765.4), ("c", 0.123456), ("d", math.nan)], limit=2)
    assert found is not None and found.value is not None
    assert found.value.splitlines()[2:] == ["| a\\|b | 98,765 |", "| c | 0.1235 |", "", "… and 1 more"]
