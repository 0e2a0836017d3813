"""How the seeds' JSON writes times and numbers."""

import math
from datetime import UTC, datetime


def iso(moment: datetime | None) -> str | None:
    """`2025-11-13T10:30:00Z`: UTC, whole seconds, as seed 000 writes it."""
    return None if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def number(value: float | None, digits: int = 6) -> float | None:
    """A float that JSON has a word for; None for NaN and infinity."""
    return round(value, digits) if value is not None and math.isfinite(value) else None
