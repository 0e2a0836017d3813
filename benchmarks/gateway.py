"""The gateway under load: what it adds, how much it carries, what an outage and a kill cost.

    python benchmarks/gateway.py [--quick] [--json] [--only latency,outage] [--litellm /path/to/litellm]

Open-loop load (Poisson) from this process, through the gateway with capture on, to a mock upstream that
answers at once with tokens and log-probabilities; all on this machine, with a PostgreSQL of its own. Added
latency is a percentile through the gateway minus the same percentile without it, measured in turns. `rps` is
the highest offered rate that was answered (99 %, p99 below 250 ms). `--litellm` names LiteLLM's proxy,
installed in an environment of its own, to put beside it.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import threading
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from serving_load.mock_upstream import answer
from serving_load.open_loop import OpenLoop, Result
from serving_load.processes import gateway, litellm, mock, prepare, ready, stored

from babylon_rl.database.embedded import destroy_server
from babylon_rl.settings import Settings

RATE = 200.0
GENTLE = 20.0
"""Requests a second that also LiteLLM's proxy carries on two cores."""
TOKENS = 48
PROMPT = " ".join(f"headline {number} says that prices move" for number in range(40))
BODY = json.dumps(
    {
        "model": "babylon-agent",
        "messages": [
            {"role": "system", "content": "You trade perpetual futures."},
            {"role": "user", "content": PROMPT},
        ],
        "temperature": 1.0,
        "max_tokens": 64,
    }
).encode()
RATES = (200, 400, 600, 700, 800, 900, 1000, 1100, 1200, 1400, 1600, 2000, 2400, 2800, 3200)
PARTS = ("latency", "rps", "power", "outage", "kill", "memory")


def load(url: str, rate: float, seconds: float, **options: Any) -> Result:
    """Open-loop load on `url`."""
    import uvloop

    return uvloop.run(OpenLoop(f"{url}/chat/completions", BODY).run(rate, seconds, **options))


def latency(
    settings: Settings, seconds: float, rounds: int, proxy: str | None, folder: Path
) -> dict[str, Any]:
    """Direct, through the gateway, and through LiteLLM, in turns."""
    p50: dict[str, list[float]] = {}
    p99: dict[str, list[float]] = {}
    with mock(TOKENS) as upstream, gateway(settings, upstream.url) as ours:
        places = {"direct": upstream.url, "gateway": ours.url}
        if proxy is None:
            measured = measure_in_turns(places, seconds, rounds)
        else:
            with litellm(proxy, upstream.url, folder) as theirs:
                places["litellm"] = theirs.url
                measured = measure_in_turns(places, seconds, rounds)
                gently = measure_in_turns(places, seconds, 1, GENTLE)
                measured |= {f"{name}, {GENTLE:g}/s": results for name, results in gently.items()}
    for name, results in measured.items():
        p50[name] = [result.ms(50) for result in results]
        p99[name] = [result.ms(99) for result in results]
        errors = sum(result.errors for result in results)
        spread = f"p50 {statistics.median(p50[name]):6.2f} ms, p99 {statistics.median(p99[name]):6.2f} ms"
        print(f"  {name:<15} {spread}, {errors} errors", flush=True)

    def added(values: dict[str, list[float]], name: str) -> float:
        pairs = zip(values[name], values["direct"], strict=True)
        return round(statistics.median(one - direct for one, direct in pairs), 3)

    figures: dict[str, Any] = {
        "added_p50_ms": added(p50, "gateway"),
        "added_p99_ms": added(p99, "gateway"),
        "direct_p50_ms": round(statistics.median(p50["direct"]), 3),
    }
    if "litellm" in p50:
        figures |= {"litellm_p50_ms": added(p50, "litellm"), "litellm_p99_ms": added(p99, "litellm")}
        alone = p50[f"direct, {GENTLE:g}/s"][0]
        for name in ("gateway", "litellm"):
            figures[f"{name}_gentle_p50_ms"] = round(p50[f"{name}, {GENTLE:g}/s"][0] - alone, 3)
    return figures


def measure_in_turns(
    places: dict[str, str], seconds: float, rounds: int, rate: float = RATE
) -> dict[str, list[Result]]:
    for url in places.values():
        load(url, rate, min(seconds, 2.0))  # warm
    measured: dict[str, list[Result]] = {name: [] for name in places}
    for _ in range(rounds):
        for name, url in places.items():
            measured[name].append(load(url, rate, seconds))
    return measured


def highest_rate(settings: Settings, seconds: float, capture: str) -> tuple[float, float]:
    """Steps up until a rate is not answered; also the gateway's CPU milliseconds per request."""
    best = 0.0
    with mock(TOKENS) as upstream, gateway(settings, upstream.url, GATEWAY_CAPTURE=capture) as ours:
        load(ours.url, 200, 2.0)
        spent, answered = ours.cpu(), 0
        for rate in RATES:
            result = load(ours.url, rate, seconds)
            answered += len(result.latencies)
            good = result.errors == 0 and result.rate >= 0.99 * result.offered / result.seconds
            good = good and result.ms(99) < 250
            print(
                f"  capture {capture:<8} offered {rate:>5}/s: {result.rate:6.0f}/s,"
                f" p50 {result.ms(50):7.2f} ms, p99 {result.ms(99):7.2f} ms",
                flush=True,
            )
            if not good:
                break
            best = result.rate
        spent = ours.cpu() - spent
    return round(best, 1), round(1e3 * spent / answered, 3)


def power(settings: Settings, seconds: float) -> dict[str, Any]:
    """Level `power`: an fdatasync before every answer, shared by those that wait."""
    with mock(TOKENS) as upstream, gateway(settings, upstream.url, GATEWAY_CAPTURE="power") as ours:
        load(ours.url, RATE, 2.0)
        result = load(ours.url, RATE, seconds)
    print(f"  power     p50 {result.ms(50):6.2f} ms, p99 {result.ms(99):6.2f} ms, {result.errors} errors")
    return {"power_p50_ms": round(result.ms(50), 3), "power_p99_ms": round(result.ms(99), 3)}


def outage(settings: Settings, seconds: float) -> dict[str, Any]:
    """The upstream is killed under load; the base model lives at another one."""
    opened: list[float] = []
    with mock(TOKENS) as upstream, mock(TOKENS) as other:
        with gateway(settings, upstream.url, GATEWAY_FALLBACK_URL=other.url) as ours:

            def kill_and_watch() -> None:
                time.sleep(seconds / 3)
                upstream.kill()
                killed = time.perf_counter()
                while time.perf_counter() < killed + 10:
                    if ready(ours.url)["versions"]["v0.0.1"]["circuit"] == "open":
                        opened.append(time.perf_counter() - killed)
                        return
                    time.sleep(0.01)

            watcher = threading.Thread(target=kill_and_watch)
            watcher.start()
            result = load(ours.url, RATE, seconds)
            watcher.join()
    breaker = round(opened[0], 3) if opened else None
    print(
        f"  outage    breaker open after {breaker} s, {result.errors} client errors,"
        f" p99 {result.ms(99):.2f} ms"
    )
    return {"breaker_s": breaker, "outage_client_errors": result.errors, "outage_requests": result.offered}


def kill(settings: Settings, calls: int, kills: int) -> dict[str, Any]:
    """kill -9 of the gateway under load, again and again; then every acknowledged call is looked for."""
    acknowledged: list[str] = []
    rate = 500.0
    with mock(TOKENS) as upstream:
        for number in range(kills + 1):
            with gateway(settings, upstream.url) as ours:
                timer = threading.Timer(calls / (kills + 1) / rate, ours.kill)
                if number < kills:
                    timer.start()
                result = load(
                    ours.url,
                    rate,
                    calls / (kills + 1) / rate + 0.5,
                    stop=lambda: ours.process.poll() is not None,
                )
                timer.join() if number < kills else None
                acknowledged += result.acknowledged
    limit = time.monotonic() + 30
    ids = stored(settings)
    while not set(acknowledged) <= set(ids) and time.monotonic() < limit:
        time.sleep(0.5)
        ids = stored(settings)
    lost, twice = len(set(acknowledged) - set(ids)), len(ids) - len(set(ids))
    print(f"  kill -9   {kills} kills, {len(acknowledged)} acknowledged, {lost} lost, {twice} stored twice")
    return {
        "acknowledged": len(acknowledged),
        "lost_acknowledged": lost,
        "stored_twice": twice,
        "kills": kills,
    }


def memory(settings: Settings, requests: int) -> dict[str, Any]:
    """Resident memory of the gateway's process from the end of the warm-up on."""
    rate = 600.0
    with mock(TOKENS) as upstream, gateway(settings, upstream.url) as ours:
        load(ours.url, rate, max(5.0, 0.1 * requests / rate))
        before, errors = ours.rss(), 0
        for _ in range(10):
            errors += load(ours.url, rate, 0.1 * requests / rate).errors
        after = ours.rss()
    growth = round(after / before - 1, 4)
    print(
        f"  memory    {before / 2**20:.1f} MiB after the warm-up, {after / 2**20:.1f} MiB {requests} requests"
        f" later ({growth:+.1%}), {errors} errors"
    )
    return {"memory_growth": growth, "memory_requests": requests, "memory_errors": errors}


def machine() -> dict[str, Any]:
    names = ("uvicorn", "uvloop", "aiohttp", "asyncpg", "msgspec")
    return {
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "versions": {"python": platform.python_version(), **{name: version(name) for name in names}},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="less of everything: a glance, not a figure")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--only", default=",".join(PARTS), help=f"some of {','.join(PARTS)}")
    parser.add_argument("--litellm", help="LiteLLM's executable, to measure beside it")
    arguments = parser.parse_args()
    parts, quick = arguments.only.split(","), arguments.quick
    if unknown := set(parts) - set(PARTS):
        parser.error(f"--only: there is no {', '.join(unknown)}")
    figures: dict[str, Any] = {"quick": quick, "machine": machine()}
    sizes = {"body_bytes": len(BODY), "answer_bytes": len(answer("babylon-agent-v0.0.1", TOKENS))}
    figures |= sizes | {"prompt_tokens": 300, "answer_tokens": TOKENS, "rate": RATE}
    print(
        f"request {sizes['body_bytes']} B, upstream's answer {sizes['answer_bytes']} B with {TOKENS} tokens; "
        f"load average {os.getloadavg()[0]:.1f}"
    )
    with tempfile.TemporaryDirectory(prefix="babylon-gateway-") as name:
        Path(name).chmod(0o711)  # as root the database server runs under another account
        settings = Settings(_env_file=None, babylon_home=Path(name) / "home", database_url=None)
        try:
            prepare(settings)
            if "latency" in parts:
                seconds, rounds = (3.0, 1) if quick else (15.0, 5)
                figures |= latency(settings, seconds, rounds, arguments.litellm, Path(name))
            if "rps" in parts:
                for key, capture in (("rps", "process"), ("rps_without_capture", "off")):
                    rate, cpu = highest_rate(settings, 2.0 if quick else 8.0, capture)
                    figures |= {key: rate, f"{key}_cpu_ms": cpu}
            if "power" in parts:
                figures |= power(settings, 3.0 if quick else 20.0)
            if "outage" in parts:
                figures |= outage(settings, 6.0 if quick else 15.0)
            if "kill" in parts:
                figures |= kill(settings, 1_500 if quick else 10_000, 2 if quick else 5)
            if "memory" in parts:
                figures |= memory(settings, 6_000 if quick else 200_000)
        finally:
            destroy_server(settings.home)
    for key in (
        "added_p50_ms",
        "added_p99_ms",
        "rps",
        "rps_without_capture",
        "litellm_p50_ms",
        "breaker_s",
        "outage_client_errors",
        "power_p99_ms",
        "lost_acknowledged",
        "memory_growth",
    ):
        print(f"{key:<22}{figures.get(key)}")
    if arguments.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
