"""Measures what each step of a prediction costs under load: python -m benchmarks.steps writes steps.md."""

from __future__ import annotations

import argparse
import statistics
import sys
from datetime import UTC, datetime
from functools import partial

from benchmarks import report
from benchmarks.run import measure, undisturbed, write_bodies
from benchmarks.stacks import BY_NAME, CORES, OURS, ROOT, VARIANT, Stack, StackError
from benchmarks.texts import with_answers

STEPS = {
    "HTTP and JSON": "our callable: the body read and checked, the answer written, with one header more",
    "call": "scorer.c, of no block: the text handed over, how sure the answer is",
    "words and pairs": "lower case, no accents, what words and pairs of words add to the scores",
}


def stacks() -> list[tuple[str, str, Stack]]:
    """Return what is measured, each with one step more than the one before: its name, what the step does, the stack."""
    cut = [
        (
            step,
            what,
            Stack(
                f"constant-{step}",
                step,
                [OURS],
                environment={
                    **VARIANT,
                    "BENCHMARK_APP": "benchmarks.peers.cut_short:application",
                    "BENCHMARK_STEP": step,
                },
                answer='"livro"',
            ),
        )
        for step, what in STEPS.items()
    ]
    return [
        ("nginx, gunicorn", "and the load itself: a constant WSGI callable", BY_NAME["constant-wsgi"]),
        *cut,
        ("letters", "what n-grams of letters within words add", BY_NAME["ours"]),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="of each load")
    options = parser.parse_args()
    began, pairs, measured = datetime.now(UTC), with_answers(), stacks()
    spent: dict[str, list[float]] = {name: [] for name, _, _ in measured}
    for number in range(options.rounds):
        for name, _, stack in measured:
            write_bodies(stack, pairs)
            try:
                sample = undisturbed(partial(measure, stack, pairs, options.seconds, number * 11_000))
            except StackError as error:
                sys.exit(f"{name}: {error}")
            spent[name].append(int(CORES) * 1e6 / sample["rate"])
            print(number + 1, name, round(spent[name][-1]), flush=True)
    rows, before = [], 0.0
    for name, what, _ in measured:
        middle = statistics.median(spent[name])
        rows.append([name, what, f"{middle - before:.0f}", report.spread(spent[name])])
        before = middle
    about = report.about(began, options.rounds, options.seconds, "make bench-steps")
    text = [
        "# Steps\n",
        "Written by `make bench-steps`: the microseconds that all cores, which serve and load, spend on one request,",
        f"and how many of them each step of a prediction takes, by servers that end after it. {CORES} cores.\n",
        *(f"- {key}: {value}" for key, value in about.items()),
        "",
        report.table("step | what it does | its own | with all before it", rows),
    ]
    (ROOT / "benchmarks/steps.md").write_text("\n".join(text))
    print("\n".join(text))


if __name__ == "__main__":
    main()
