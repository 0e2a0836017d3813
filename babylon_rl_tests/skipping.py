"""Skips that cannot hide: under BABYLON_REQUIRE_ALL=1 (continuous integration) they fail."""

import importlib.util
import os
import shutil
from typing import NoReturn

import pytest


def skips_fail() -> bool:
    return os.environ.get("BABYLON_REQUIRE_ALL", "").strip().lower() in ("1", "true", "yes", "on")


def skip(reason: str) -> NoReturn:
    """Skips the running test, or fails it where skips are not allowed. `reason` names what is missing."""
    if skips_fail():
        pytest.fail(f"{reason} (BABYLON_REQUIRE_ALL is set)", pytrace=False)
    pytest.skip(reason)


def require_tool(name: str) -> str:
    """The path of a program that the test needs; skips where it is not installed."""
    path = shutil.which(name)
    return path if path is not None else skip(f"{name} is not installed")


def require_module(name: str) -> None:
    """Skips where an optional package is not installed."""
    if importlib.util.find_spec(name) is None:
        skip(f"the Python package {name} is not installed (extra `{name}`)")
