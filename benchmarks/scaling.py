"""Measures how the image scales, by cores and by replicas, into docs/scaling.md: python -m benchmarks.scaling."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.containers import docker
from benchmarks.load import Load, finished, wrk
from benchmarks.run import write_bodies
from benchmarks.stacks import BY_NAME, ROOT, START_SECONDS, StackError, ask, free_port
from benchmarks.texts import NUMBER, with_answers

PAGE = ROOT / "docs" / "scaling.md"
STACK = BY_NAME["ours"]
SECONDS = 8
WARM_SECONDS = 20  # of 0.3 cores: until workers have copied the pages that they write to
CORES = (0.5, 1.0, 2.0)
REPLICAS = (1, 2, 3)
REPLICA_CORES = 0.3  # so that three of them, nginx and the load fit on two cores
CONNECTIONS = (1, 2, 4, 8, 16, 32, 64)
TARGET = 0.6  # of a container's capacity: what the autoscaler of deploy/kubernetes.yaml aims at
DEMANDS = (100, 10_000, 1_000_000)
NODE_CORES = 15  # of a node of 16, one being for the system


@dataclass(frozen=True)
class Run:
    """What a load came to, and the CPU seconds a second that the containers had meanwhile."""

    load: Load
    cores: float  # of those that predict
    front: float = 0.0  # of nginx, where it is apart


def build() -> None:
    for target in ("", "web", "api"):
        docker("build", "-t", tag(target), *([f"--target={target}"] if target else []), str(ROOT))


def tag(target: str) -> str:
    return f"cadastro-produto:scaling{target}"


@contextlib.contextmanager
def container(target: str, *options: str) -> Iterator[str]:
    name = f"scaling-{uuid.uuid4().hex[:8]}"
    docker("run", "--detach", f"--name={name}", "--memory=512m", "--env=RATE_LIMIT=0", *options, tag(target))
    try:
        yield name
    finally:
        docker("rm", "--force", name)


def cpu_seconds(name: str) -> float:
    """Return the CPU time that a container has had, from its cgroup, of version 1 or 2."""
    pid = docker("inspect", "--format={{.State.Pid}}", name).strip()
    groups = dict(line.split(":", 2)[1:] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines())
    v1 = next((group for group in groups if "cpuacct" in group.split(",")), None)
    if v1 is not None:
        return int(Path(f"/sys/fs/cgroup/cpuacct{groups[v1]}/cpuacct.usage").read_text()) / 1e9
    stat = Path(f"/sys/fs/cgroup{groups['']}/cpu.stat").read_text().split()
    return int(stat[stat.index("usage_usec") + 1]) / 1e6


def healthy(name: str) -> bool:
    try:
        docker("exec", name, "curl", "-fsS", "http://localhost:8080/api/health")
    except StackError:
        return False
    return True


def measure(port: int, predicting: list[str], front: list[str], connections: int = 16, warm: int = WARM_SECONDS) -> Run:
    """Wait until it answers, let it warm up, and load it."""
    deadline = time.monotonic() + START_SECONDS
    while not ask(port, STACK, "boneca de pano", "brinquedo"):
        if time.monotonic() > deadline:
            raise StackError("the containers did not start")
        time.sleep(0.05)
    url = f"http://127.0.0.1:{port}{STACK.path}"
    with wrk(url, STACK.bodies, 0, warm) as process:
        finished(process)
    before = [sum(map(cpu_seconds, names)) for names in (predicting, front)]
    with wrk(url, STACK.bodies, NUMBER // 2, SECONDS, connections) as process:
        load = finished(process)
    if load.errors:
        raise StackError(f"wrk counts {load.errors} errors")
    after = [sum(map(cpu_seconds, names)) for names in (predicting, front)]
    return Run(load, (after[0] - before[0]) / SECONDS, (after[1] - before[1]) / SECONDS)


def by_cores() -> dict[float, Run]:
    runs = {}
    for cores in CORES:
        port = free_port()
        with container("", f"--publish=127.0.0.1:{port}:8080", f"--cpus={cores}") as name:
            runs[cores] = measure(port, [name], [])
    return runs


def by_connections() -> dict[int, Run]:
    port = free_port()
    with container("", f"--publish=127.0.0.1:{port}:8080", "--cpus=1") as name:
        measure(port, [name], [])
        return {connections: measure(port, [name], [], connections, warm=1) for connections in CONNECTIONS}


def by_replicas() -> dict[int, Run]:
    runs = {}
    for replicas in REPLICAS:
        network, port = f"scaling-{uuid.uuid4().hex[:8]}", free_port()
        docker("network", "create", network)
        try:
            with contextlib.ExitStack() as stack:
                options = (f"--network={network}", "--network-alias=api", f"--cpus={REPLICA_CORES}")
                names = [stack.enter_context(container("api", *options)) for _ in range(replicas)]
                web = stack.enter_context(container("web", f"--network={network}", f"--publish=127.0.0.1:{port}:8080"))
                while not all(map(healthy, names)):
                    time.sleep(0.1)
                time.sleep(3)  # nginx looks the name up every 2 s
                runs[replicas] = measure(port, names, [web])
        finally:
            docker("network", "rm", network)
    return runs


def line_bytes() -> int:
    """Return the length of a prediction's line in the log."""
    port = free_port()
    with container("", f"--publish=127.0.0.1:{port}:8080") as name:
        measure(port, [name], [], 1, warm=1)
        lines = docker("logs", name).splitlines()
    return round(sum(len(line) + 1 for line in lines) / len(lines))


def table(heads: str, rows: list[list[str]]) -> str:
    names = heads.split(", ")
    return "\n".join(f"| {' | '.join(row)} |" for row in [names, ["---"] * len(names), *rows])


def tables(cores: dict[float, Run], connections: dict[int, Run], replicas: dict[int, Run], line: int) -> dict[str, str]:
    """Return the tables of docs/scaling.md by their names there."""
    each, alone = cores[1.0].load.rate, replicas[1].load.rate
    front_per_core = replicas[3].load.rate / replicas[3].front

    def latency(run: Run) -> list[str]:
        return [f"{run.load.p50:.1f}", f"{run.load.p99:.1f}"]

    def by_core(quota: float, run: Run) -> list[str]:
        rate = run.load.rate
        return [f"{quota}", f"{rate:,.0f}", f"{run.cores:.2f}", f"{rate / run.cores:,.0f}", *latency(run)]

    def by_replica(count: int, run: Run) -> list[str]:
        rate, cpu = run.load.rate, [f"{run.cores:.2f}", f"{run.front:.2f}"]
        return [f"{count}", f"{rate:,.0f}", f"{rate / alone / count:.0%}", *cpu, f"{run.load.rate / run.front:,.0f}"]

    def demanded(demand: int) -> list[str]:
        count = max(2, math.ceil(demand / (TARGET * each)))
        nodes, front = max(2, math.ceil(count / NODE_CORES)), demand / (TARGET * front_per_core)
        log = [f"{demand * line / 1e6:,.2f}", f"{demand * line * 86_400 / 1e9:,.0f}"]
        return [f"{demand:,}", f"{count:,}", f"{nodes:,}", f"{front:,.1f}", *log]

    when = f"Measured {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores, Linux {os.uname().release}"
    return {
        "when": f"{when}: {SECONDS} s of load each, after {WARM_SECONDS} s to warm up.",
        "cores": table(
            "cores allowed, requests/s, cores used, requests a core second, p50 ms, p99 ms",
            [by_core(*each) for each in cores.items()],
        ),
        "at a time": table(
            "at a time, requests/s, p50 ms, p99 ms",
            [[f"{count}", f"{run.load.rate:,.0f}", *latency(run)] for count, run in connections.items()],
        ),
        "replicas": table(
            "replicas, requests/s, efficiency, cores of the replicas, cores of nginx, requests a core second of nginx",
            [by_replica(*each) for each in replicas.items()],
        ),
        "demand": table(
            "requests/s, containers of 1 core, nodes of 16, cores of an ingress, log MB/s, log GB a day",
            [demanded(demand) for demand in DEMANDS],
        ),
    }


def main() -> None:
    try:
        write_bodies(STACK, with_answers())
        build()
        found = tables(by_cores(), by_connections(), by_replicas(), line_bytes())
    except StackError as error:
        sys.exit(f"cannot measure: {error}")
    text = PAGE.read_text(encoding="utf-8")
    for name, content in found.items():
        mark = f"<!-- {name} -->\n"
        before, _, after = text.partition(mark)
        text = f"{before}{mark}{content}\n\n{after.partition(chr(10) * 2)[2]}"
        print(content, end="\n\n")
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
