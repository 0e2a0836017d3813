"""The judge: does every score reach its episode, can text talk it into one, what does it cost?

    python benchmarks/judge.py [--quick] [--json] [--only replies|attacks|cost|load|real]

Everything runs against judge servers of the test suite on 127.0.0.1, through the openai client, with the
cache in an embedded PostgreSQL. Replies: the same fuzzed answers for the same groups go through our scorer
and through ART's own group function; a misassigned reward is one that differs from what the judge meant for
that episode. Attacks: a gullible judge takes everything that looks like a tag for one and obeys what it finds
outside of an episode's data. Cost: tokens by the tokenizer of gpt-4o. Load: a day of 24 groups against two
rounds of the judge's own delay. `real` needs a key (JUDGE_API_KEY or OPENAI_API_KEY) and spends a few cents;
without one its figures say "not measured".
"""

import argparse
import asyncio
import json
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from parts import judge_attacks, judge_load, judge_real, judge_replies
from parts.judge_setup import embedded_database, prepare
from parts.judge_tokens import tokens_of_a_group
from parts.machine import machine

PARTS = ("replies", "attacks", "cost", "load", "real")
BOUNDS = {
    "misassigned": 0,
    "tag_breakouts": 0,
    "obeyed_injections": 0,
    "tokens_per_group": 12_000,
    "rerun_calls": 0,
    "time_ratio": 1.3,
    "memory_growth": 1.1,
}


def replies(dsn: str, quick: bool) -> dict[str, Any]:
    """Fuzzed replies through both readers."""
    count = 720 if quick else 10_000
    own = asyncio.run(judge_replies.ours(dsn, count))
    arts = judge_replies.arts(count)
    print(f"{'replies':<28}{'ours':>12}{'ART':>12}")
    print(f"{'  answered':<28}{count:>12}{count:>12}")
    print(f"{'  accepted':<28}{own.accepted:>12}{arts.accepted:>12}")
    print(f"{'  with misassigned rewards':<28}{own.replies_misassigned:>12}{arts.replies_misassigned:>12}")
    print(f"{'  misassigned rewards':<28}{own.misassigned:>12}{arts.misassigned:>12}")
    for kind, number in arts.kinds.most_common():
        print(f"    {kind:<24}{own.kinds[kind]:>12}{number:>12}")
    return {
        "replies": count,
        "accepted": own.accepted,
        "accepted_art": arts.accepted,
        "misassigned": own.misassigned,
        "misassigned_art": arts.misassigned,
        "replies_misassigned_art": arts.replies_misassigned,
    }


def attacks(dsn: str, quick: bool) -> dict[str, Any]:
    """The attack suite against a gullible judge."""
    own, arts = asyncio.run(judge_attacks.ours(dsn)), judge_attacks.arts()
    print(f"{'attacks':<28}{own.attacks:>12}{arts.attacks:>12}")
    print(f"{'  tag break-outs':<28}{own.tag_breakouts:>12}{arts.tag_breakouts:>12}")
    print(f"{'  injections obeyed':<28}{own.obeyed:>12}{arts.obeyed:>12}")
    return {
        "attacks": own.attacks,
        "tag_breakouts": own.tag_breakouts,
        "obeyed_injections": own.obeyed,
        "tag_breakouts_art": arts.tag_breakouts,
        "obeyed_injections_art": arts.obeyed,
    }


def cost(dsn: str, quick: bool) -> dict[str, Any]:
    """Tokens of a group of 8 episodes of 10 steps."""
    group = tokens_of_a_group()
    share = group.view / group.whole
    print(
        f"tokens per group: {group.view} (reserved {group.estimate}); whole steps {group.whole}, {share:.0%}"
    )
    return {
        "tokens_per_group": group.view,
        "tokens_whole_steps": group.whole,
        "tokens_estimated": group.estimate,
        "usd_per_group_gpt_4o_mini": round(group.usd, 5),
    }


def load(dsn: str, quick: bool) -> dict[str, Any]:
    """A day at 16 concurrent calls, its repetition, and the memory of several days."""
    delay, rounds = (2.0, 1) if quick else (3.0, 3)  # a real judge takes longer for 8 reasons
    with judge_load.judge_process(delay) as url:
        days = [asyncio.run(judge_load.score_days(dsn, url, seed=100 * i)) for i in range(rounds)]
        again = asyncio.run(judge_load.score_days(dsn, url, seed=0))
        many = asyncio.run(judge_load.score_days(dsn, url, seed=5000, days=2 if quick else 5, agents=20))
    ratio = median(day.seconds for day in days) / (2 * delay)
    growth = many.peaks_mib[-1] / many.peaks_mib[0]
    cpu = median(day.cpu_seconds for day in days) / 24 * 1000
    print(
        f"24 groups, {judge_load.CONCURRENCY} calls at once: {ratio:.2f} of two rounds of {delay:g} s, ",
        end="",
    )
    print(f"{cpu:.0f} ms of CPU per group, {days[0].calls} calls")
    print(f"the same day again: {again.calls} calls, {again.seconds:.2f} s")
    print(f"memory over {len(many.peaks_mib)} days of 24 x 20 episodes: ", end="")
    print(f"{many.peaks_mib[0]:.0f} MiB, x {growth:.2f}")
    return {
        "time_ratio": round(ratio, 3),
        "time_ratios": [round(day.seconds / (2 * delay), 3) for day in days],
        "cpu_ms_per_group": round(cpu, 1),
        "calls_per_day": days[0].calls,
        "rerun_calls": again.calls,
        "rerun_seconds": round(again.seconds, 3),
        "memory_mib": [round(peak, 1) for peak in many.peaks_mib],
        "memory_growth": round(growth, 3),
    }


def real(dsn: str, quick: bool) -> dict[str, Any]:
    """A real judge, where there is a key."""
    found = asyncio.run(judge_real.measure(dsn))
    print("real judge: " + ", ".join(f"{name} {value}" for name, value in found.items()))
    return {"real_judge": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="fewer replies and rounds: a glance, not a figure"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--only", choices=PARTS, help="one part")
    arguments = parser.parse_args()
    work: dict[str, Callable[[str, bool], dict[str, Any]]] = {
        "replies": replies,
        "attacks": attacks,
        "cost": cost,
        "load": load,
        "real": real,
    }
    started, figures = time.perf_counter(), dict[str, Any]()
    with embedded_database() as dsn:
        asyncio.run(prepare(dsn))
        # ART's import changes the process, so what is timed comes before it.
        for name in ("cost", "load", "replies", "attacks", "real"):
            if arguments.only in (None, name):
                figures |= work[name](dsn, arguments.quick)
    missed = [name for name, bound in BOUNDS.items() if name in figures and figures[name] > bound]
    print(f"bounds: {'missed ' + ', '.join(missed) if missed else 'all kept'}")
    figures |= {
        "missed": missed,
        "seconds": round(time.perf_counter() - started, 1),
        "quick": arguments.quick,
    }
    figures |= {"machine": machine("openai", "litellm", "openpipe-art", "asyncpg")}
    if arguments.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
