"""Costs: the seeds' table from the price table, estimates, and prices that cannot be."""

import json
from pathlib import Path

import pytest

from babylon_rl.training.costs import (
    PriceTable,
    PriceTableError,
    Range,
    cost_of_run,
    estimate,
    monthly,
    read_prices,
    render_prices,
)


def test_the_seeds_monthly_table() -> None:
    month = monthly(PriceTable())
    assert (month.training, month.inference) == (Range(720, 1440), Range(100, 280))
    assert month.total == Range(820, 1720) and month.self_managed == 7000
    assert month.saved.low == pytest.approx(75.4, abs=0.1)
    assert month.saved.high == pytest.approx(88.3, abs=0.1), "the seeds say 85"


def test_a_unit_is_estimated_by_its_backend() -> None:
    prices = PriceTable(gpu_hour=3.0, cpu_hour=0.1, serverless_million_tokens=Range(2, 2))
    assert estimate(prices, "serverless", chunks=3, tokens=500_000) == Range(4, 7)
    assert estimate(prices, "local", chunks=3, tokens=1, hours=2) == Range(6, 6)
    assert estimate(prices, "embedded", chunks=1, tokens=1, hours=0.5).low == pytest.approx(0.05)


def test_what_is_known_afterwards() -> None:
    prices = PriceTable(gpu_hour=3.0)
    remote = cost_of_run(prices, "serverless", chunks=1, tokens=1, seconds=10, metrics={})
    assert remote.actual is None and "costs/actual_usd" not in remote.metrics()
    told = cost_of_run(prices, "serverless", chunks=1, tokens=1, seconds=10, metrics={"costs/train": 0.7})
    assert told.metrics()["costs/actual_usd"] == 0.7
    local = cost_of_run(prices, "local", chunks=1, tokens=1, seconds=1800, metrics={})
    assert local.actual == pytest.approx(1.5)


def test_prices_are_a_file(tmp_path: Path) -> None:
    file = tmp_path / "prices.json"
    file.write_text(json.dumps({"gpu_hour": 2.5, "serverless_job": {"low": 3, "high": 4}, "jobs_per_day": 1}))
    prices = read_prices(file)
    assert (prices.gpu_hour, prices.serverless_job) == (2.5, Range(3, 4))
    assert monthly(prices).training == Range(90, 120) and prices.serverless_request == 0.001
    file.write_text(render_prices(prices))
    assert read_prices(file) == prices and read_prices(None) == PriceTable()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"gpu_hours": 1}', "unknown key gpu_hours. It knows serverless_job"),
        ('{"gpu_hour": -1}', "gpu_hour is -1, which is no amount"),
        ('{"gpu_hour": "free"}', "gpu_hour is 'free'"),
        ('{"gpu_hour": true}', "gpu_hour is True"),
        ('{"serverless_job": {"low": 2, "high": 1}}', "serverless_job is"),
        ('{"serverless_job": {"low": 2}}', "serverless_job is"),
        ("[1]", "has no keys"),
        ("{", "cannot be read"),
    ],
)
def test_prices_that_cannot_be_are_refused_by_name(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "prices.json"
    file.write_text(text)
    with pytest.raises(PriceTableError, match=complaint):
        read_prices(file)


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(PriceTableError, match="No such file"):
        read_prices(tmp_path / "gone.json")
