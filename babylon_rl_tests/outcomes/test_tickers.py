"""Spellings of a company: all lead to one organization, shared ones to none."""

import pytest

from babylon_rl.outcomes.tickers import TickerAliases, engine_ticker

COMPANIES = [
    ("aurum", "Aurum Inc"),
    ("washington-post", "The Post"),
    ("washington-porto", "Porto"),
    ("c++", "C"),
]


@pytest.mark.parametrize(
    ("organization", "ticker"),
    [("aurum", "AURUM"), ("washington-post", "WASHINGTONPO"), ("effective-authoritarianism", "EFFECTIVEAUT")],
)
def test_engine_form(organization, ticker):
    assert engine_ticker(organization) == ticker


@pytest.mark.parametrize(
    ("spelling", "organization"),
    [
        ("aurum", "aurum"),
        ("AURUM", "aurum"),
        ("$aurum", "aurum"),
        ("Aurum Inc", "aurum"),
        ("WASHINGTONPOST", "washington-post"),
        ("Washington-Post", "washington-post"),
        ("washingtonpo", None),
        ("nobody", None),
        ("", None),
        (None, None),
    ],
)
def test_every_spelling_leads_to_its_organization(spelling, organization):
    assert TickerAliases(COMPANIES).resolve(spelling) == organization


def test_shared_spellings_are_told():
    assert TickerAliases(COMPANIES).ambiguous == ["washingtonpo"]


def test_mentions_are_whole_words():
    aliases = TickerAliases(COMPANIES)
    assert aliases.mentioned("$AURUM rises; The post says Aurums fall") == ["aurum", "washington-post"]
    assert aliases.mentioned("aurums and posts") == []
    assert TickerAliases([]).mentioned("anything") == []
