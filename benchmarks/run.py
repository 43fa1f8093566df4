"""Measures all stacks in one run and writes benchmarks/README.md: python -m benchmarks.run [--quick]."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from benchmarks import containers, report
from benchmarks.load import finished, open_loop, post, wrk
from benchmarks.stacks import BY_NAME, CACHE, MODEL, PEERS_WITH_SKLEARN, ROOT, STACKS, Stack, StackError, ask, running
from benchmarks.texts import NUMBER, with_answers

T = TypeVar("T")
QUICK = ("textbook", "fastapi", "fastapi-ours", "ours")
KNOWN = ("boneca de pano", "brinquedo")  # what a stack is asked until it answers
WARM_SECONDS = 2
TURNS = 40
PATIENCE_ENDS = time.monotonic() + 15 * 60


def measure(stack: Stack, pairs: list[tuple[str, str]], seconds: int, first: int) -> dict[str, float]:
    """Return what one start of a stack comes to under wrk. Raises StackError where an answer is wrong."""
    start = ("livro", "livro") if "constant" in stack.name else KNOWN
    with running(stack, *start) as live:
        sample = {"start": live.seconds, "idle": live.pss()}
        url = f"http://127.0.0.1:{live.port}{stack.path}"
        with wrk(url, stack.bodies, first, WARM_SECONDS) as process:
            finished(process)
        with wrk(url, stack.bodies, first + NUMBER // 4, seconds) as process:
            wrong, begin = 0, time.monotonic()
            for number in range(4 * seconds):  # a sample of the answers is checked while the load runs
                if process.poll() is not None:
                    break
                wrong += not ask(live.port, stack, *pairs[(first + number * 37) % len(pairs)])
                if time.monotonic() - begin > seconds * 0.7 and "loaded" not in sample:
                    sample["loaded"] = live.pss()
                time.sleep(0.25)
            sample.setdefault("loaded", live.pss())
            load = finished(process)
        if wrong or load.errors:
            raise StackError(f"{wrong} of the checked answers are wrong, and wrk counts {load.errors} errors")
        return {**sample, "rate": load.rate, "p50": load.p50, "p99": load.p99}


def fixed_rate(stack: Stack, pairs: list[tuple[str, str]], rates: list[float], seconds: int) -> list[dict[str, float]]:
    """Return the latencies of one start of a stack at each of the arrival rates."""
    with running(stack, *KNOWN) as live:
        requests = [post(stack.path, stack.body(text)) for text, _ in pairs]
        expected = [stack.expected(category) for _, category in pairs]
        open_loop(live.port, requests[::-1], expected[::-1], rates[0], WARM_SECONDS)
        return [dataclasses.asdict(open_loop(live.port, requests, expected, rate, seconds)) for rate in rates]


def in_turns(stacks: list[Stack], turns: int) -> list[float]:
    """Return, for each turn, the first stack's requests a second, of the second's: both run, and are loaded in turn.

    So near to each other in time, and so often, that others on the machine weigh on both.
    """
    with contextlib.ExitStack() as stack:
        urls = []
        for each in stacks:
            start = ("livro", "livro") if "constant" in each.name else KNOWN
            live = stack.enter_context(running(each, *start))
            urls.append(f"http://127.0.0.1:{live.port}{each.path}")
        ratios = []
        for turn in range(-1, turns):  # the first warms up
            rates = [0.0, 0.0]
            for at in (0, 1) if turn % 2 else (1, 0):
                with wrk(urls[at], stacks[at].bodies, (turn + 1) * 2_500 + at * 1_000, 1) as process:
                    load = finished(process)
                if load.errors:
                    raise StackError(f"wrk counts {load.errors} errors of {stacks[at].name}")
                rates[at] = load.rate
            ratios.append(rates[0] / rates[1])
        return ratios[1:]


def write_bodies(stack: Stack, pairs: list[tuple[str, str]]) -> None:
    stack.bodies.write_bytes(b"".join(stack.body(text) + b"\n" for text, _ in pairs))


def undisturbed(measurement: Callable[[], T]) -> T:
    """Measure while nothing else runs on this machine: wait for that, and measure again, while there is patience."""
    while True:
        while busy() > 0.1 and time.monotonic() < PATIENCE_ENDS:
            pass
        result = measurement()
        if busy() <= 0.1 or time.monotonic() >= PATIENCE_ENDS:
            return result
        print("something else runs on this machine: once more", flush=True)


def busy(seconds: float = 0.5) -> float:
    """Return the share of this machine's time that is not idle, over some time in which we do nothing."""

    def times() -> tuple[int, int]:
        fields = [int(each) for each in Path("/proc/stat").read_text().partition("\n")[0].split()[1:]]
        return sum(fields), fields[3] + fields[4]  # user, nice, system, idle, iowait, …: proc_stat(5)

    before = times()
    time.sleep(seconds)
    total, idle = (after - earlier for after, earlier in zip(times(), before, strict=True))
    return 1 - idle / total


def timed(*command: str) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - start


def batch(who: str) -> float:
    command = [sys.executable, "-m", "benchmarks.batch", who]
    return float(subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout)


def contract() -> str:
    """Return pytest's last line on the FastAPI peer with our scorer."""
    command = [sys.executable, "-m", "pytest", "-q", "benchmarks/test_contract.py"]
    lines = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    return lines[-1] if lines else "pytest said nothing"


def compare(stacks: list[Stack], rounds: int, seconds: int) -> dict[str, Any]:
    """Return everything that is measured without containers; a stack that fails is named, with why."""
    pairs, model = with_answers(), report.model_sha256()
    result: dict[str, Any] = {"samples": {}, "failed": {}, "fixed": {}, "import": [], "batch": {}, "pairs": {}}
    for stack in stacks:
        write_bodies(stack, pairs)
        try:
            stack.install()
        except StackError as error:
            result["failed"][stack.name] = str(error)
    result["contract"] = contract()
    for number in range(rounds):
        result["import"].append(undisturbed(lambda: timed(sys.executable, "-c", "import sklearn")))
        for who in ("ours", "scikit-learn"):
            result["batch"].setdefault(who, []).append(undisturbed(partial(batch, who)))
        for stack in stacks:
            if stack.name in result["failed"]:
                continue
            try:
                sample = undisturbed(partial(measure, stack, pairs, seconds, number * 17_000))
            except StackError as error:
                if report.model_sha256() != model:
                    sys.exit(f"{MODEL} changed during the run, which says nothing then")
                result["failed"][stack.name] = str(error)
                print(stack.name, error, flush=True)
                continue
            result["samples"].setdefault(stack.name, []).append(sample)
            print(number + 1, stack.name, {key: round(value, 2) for key, value in sample.items()}, flush=True)
    for pair in report.PAIRS:
        names = pair.split(" / ")
        if all(name in result["samples"] for name in names):
            result["pairs"][pair] = undisturbed(partial(in_turns, [BY_NAME[name] for name in names], TURNS))
            print(pair, "in turns", report.spread(result["pairs"][pair], 2), flush=True)
    rates = {name: report.median(result, name, "rate") for name in result["samples"]}
    best = max((name for name in rates if name in PEERS_WITH_SKLEARN), key=rates.__getitem__)
    result["best"] = best
    plan = {best: [0.6 * rates[best]], "ours": [0.6 * rates[best], 0.6 * rates["ours"]]}
    for _ in range(rounds):
        for name, wanted in plan.items():
            loads = undisturbed(partial(fixed_rate, BY_NAME[name], pairs, wanted, seconds))
            result["fixed"].setdefault(name, []).append(loads)
            print(name, "at a fixed rate", loads, flush=True)
    result["planned"] = plan
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"only {', '.join(QUICK)}; writes no README")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=int, help="of each load")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))  # ends the stack that runs, too
    began = datetime.now(UTC)
    stacks = [stack for stack in STACKS if not options.quick or stack.name in QUICK]
    rounds, seconds = options.rounds or (2 if options.quick else 3), options.seconds or (3 if options.quick else 6)
    result = compare(stacks, rounds, seconds)
    if not options.quick:
        result["containers"] = undisturbed(partial(containers.measure, seconds))
    result["about"] = report.about(began, rounds, seconds, "make bench-quick" if options.quick else "make bench")
    (CACHE / "results.json").write_text(json.dumps(result, indent=1))
    if not options.quick:
        (ROOT / "benchmarks/results.json").write_text(json.dumps(result, indent=1) + "\n")
        (ROOT / "benchmarks/results.svg").write_text(report.svg(result))
        (ROOT / "benchmarks/README.md").write_text(report.markdown(result))
    print(report.markdown(result))


if __name__ == "__main__":
    main()
