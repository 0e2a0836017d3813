"""A rollout for people: one sentence, and a table of what the newest look found."""

from rich.table import Table

from babylon_rl.deployment.rollout_rows import Check
from babylon_rl.deployment.rollout_state import RolloutStatus


def sentence(status: RolloutStatus) -> str:
    """Who serves, who tries to replace it with which share, and the newest reason."""
    if status.candidate is None:
        return f"{status.active} serves everybody; no rollout is running"
    if status.strategy == "test":
        named = ", ".join(status.agents[:5]) + (", …" if len(status.agents) > 5 else "")
        share = f"{len(status.agents)} named agents ({named})"
    else:
        share = f"{status.percentage:g} % of {'agents and hours' if status.experiment else 'the agents'}"
    lines = [f"{status.active} serves; {status.candidate} goes to {share}"]
    if status.experiment and status.origin is not None:
        lines.append(f"measured from {status.origin:%Y-%m-%d %H:%M} UTC, blocks of {status.block_windows} h")
    if len(status.schedule) > 1:
        steps = " then ".join(
            f"{step.percentage:g} %" + (f" for {step.windows} h" if step.windows else "")
            for step in status.schedule
        )
        lines.append(f"schedule: {steps}")
    if status.check is not None:
        lines.append(f"{status.check.decision}: {status.check.reason}")
    return "; ".join(lines)


def rollout_table(check: Check) -> Table | None:
    """One line per metric: candidate minus incumbent with its confidence sequence; None for other looks."""
    metrics = check.report.get("metrics")
    if not metrics:
        return None
    table = Table(title=f"{check.checked_at:%Y-%m-%d %H:%M} UTC, {check.report['windows']} hours measured")
    for column in ("metric", "candidate", "incumbent", "difference", "95 % at any look", "detectable", "n"):
        table.add_column(column, justify="left" if column == "metric" else "right")
    for metric in metrics.values():
        band = metric["band"]
        interval = "" if band["low"] is None else f"{band['low']:+.4g} to {band['high']:+.4g}"
        table.add_row(
            metric["label"],
            *(_number(value) for value in (metric["candidate"], metric["incumbent"])),
            _number(band["mean"], "+"),
            interval,
            _number(band["detectable"]),
            str(band["n"]),
        )
    return table


def _number(value: float | None, sign: str = "") -> str:
    return "" if value is None else f"{value:{sign}.4g}"
