"""Measures the images, ours and the textbook's: their size by package, and what they do within a small plan."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.load import finished, wrk
from benchmarks.stacks import BY_NAME, MODEL, PEERS, ROOT, START_SECONDS, StackError, ask, free_port
from benchmarks.texts import NUMBER

BASE = "python:3.13-slim"
PORTS = {"ours": 8080, "textbook": 80}
LIMITS = (("--cpus=0.5", "--memory=512m"), ("--cpus=1", "--memory=256m"))
SOCKET = Path("/run/podman/podman.sock")

# One line an owner: MB and name. Debian's packages by what they declare, Python's by their folders, and the caches.
ACCOUNT = r"""
dpkg-query -W -f '${Installed-Size} debian/${Package}\n' | awk '{print $1 * 1024 / 1e6, $2}'
site=$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
for folder in "$site"/*/ /var/lib/apt/lists/ /var/cache/ /root/.cache/ /app/; do
  [ ! -d "$folder" ] || du -sb "$folder" | awk '{print $1 / 1e6, $2}'
done
"""


def docker(*arguments: str) -> str:
    """Return what docker prints. Raises StackError where it fails."""
    socket = {"DOCKER_HOST": f"unix://{SOCKET}"} if SOCKET.exists() and "DOCKER_HOST" not in os.environ else {}
    try:
        result = subprocess.run(["docker", *arguments], capture_output=True, text=True, env={**os.environ, **socket})
    except FileNotFoundError:
        raise StackError("there is no `docker` command") from None
    if result.returncode:
        raise StackError(f"`docker {arguments[0]}` fails: {result.stderr.strip()[-300:]}")
    return result.stdout


def build() -> None:
    docker("build", "-t", tag("ours"), str(ROOT))
    with tempfile.TemporaryDirectory() as folder:
        context = Path(folder)
        for name in ("textbook.py", "Dockerfile"):
            shutil.copy(PEERS / name, context)
        shutil.copy(PEERS / "textbook.site", context / "default")
        shutil.copy(MODEL, context / "model.sav")
        pins = re.findall(r"(?m)^(?:flask|gunicorn|scikit-learn)==.*", (ROOT / "requirements.txt").read_text())
        (context / "requirements.txt").write_text("\n".join(pins) + "\n")
        docker("build", "-t", tag("textbook"), folder)


def tag(image: str) -> str:
    return f"cadastro-produto:benchmark-{image}"


def account(image: str) -> dict[str, float]:
    """Return the MB of files that each package adds in this image to the base."""

    def listed(reference: str) -> dict[str, float]:
        lines = docker("run", "--rm", "--user=0", "--entrypoint=/bin/sh", reference, "-c", ACCOUNT).splitlines()
        return {name: float(megabytes) for megabytes, name in (line.split(maxsplit=1) for line in lines)}

    base = listed(BASE)
    found: dict[str, float] = {}
    for name, megabytes in listed(image).items():
        added = megabytes - base.get(name, 0)
        short = re.sub(r"^/usr.*-packages/", "python/", name).rstrip("/")
        if added >= 0.5:
            found[short] = added
    return found


class Cgroup:
    """The memory of a container, of version 1 or 2."""

    def __init__(self, pid: str) -> None:
        groups = dict(line.split(":", 2)[1:] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines())
        v1 = "memory" in groups
        self._folder = Path(f"/sys/fs/cgroup/memory{groups['memory']}" if v1 else f"/sys/fs/cgroup{groups['']}")
        self._usage = "memory.usage_in_bytes" if v1 else "memory.current"
        self._cached = "total_inactive_file " if v1 else "inactive_file "

    def megabytes(self) -> float:
        """Return what it uses, without files that the kernel keeps in memory only because there is room."""
        stat = (self._folder / "memory.stat").read_text()
        cached = next(int(line.split()[1]) for line in stat.splitlines() if line.startswith(self._cached))
        return (int((self._folder / self._usage).read_text()) - cached) / 1e6


@contextlib.contextmanager
def container(image: str, limits: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    name, port = f"benchmark-{uuid.uuid4().hex[:8]}", free_port()
    options = ("--env=RATE_LIMIT=0", f"--publish=127.0.0.1:{port}:{PORTS[image]}", *limits)
    docker("run", "--detach", f"--name={name}", *options, tag(image))
    try:
        yield name, port
    finally:
        docker("rm", "--force", name)


def limited(image: str, limits: tuple[str, ...], seconds: int) -> dict[str, Any]:
    """Return what one container comes to within these limits; `failed` says why where another's does not start."""
    stack = BY_NAME[image]
    about = {"image": image, "limits": " ".join(limits)}
    with container(image, limits) as (name, port):
        deadline = time.monotonic() + START_SECONDS
        while not ask(port, stack, "boneca de pano", "brinquedo"):
            if time.monotonic() > deadline:
                if image == "ours":
                    raise StackError(f"our container did not start with {limits}: {docker('logs', name)[-300:]}")
                return {**about, "failed": f"no answer within {START_SECONDS} s"}
            time.sleep(0.01)
        answered = time.time()
        started, pid = docker("inspect", "--format={{json .State.StartedAt}} {{.State.Pid}}", name).split()
        since = datetime.fromisoformat(re.sub(r"(\.\d{6})\d*", r"\1", started.strip('"')).replace("Z", "+00:00"))
        cgroup = Cgroup(pid)
        peak = cgroup.megabytes()
        for first in (0, NUMBER // 2):  # the first is to warm up
            with wrk(f"http://127.0.0.1:{port}{stack.path}", stack.bodies, first, seconds) as process:
                while process.poll() is None:
                    peak = max(peak, cgroup.megabytes())
                    time.sleep(0.1)
                load = finished(process)
        return {
            **about,
            "limit": int(re.findall(r"\d+", limits[1])[0]) * 2**20 / 1e6,
            "start": answered - since.timestamp(),
            "rate": load.rate,
            "p50": load.p50,
            "p99": load.p99,
            "errors": load.errors,
            "peak": peak,
        }


def measure(seconds: int) -> dict[str, Any]:
    """Return everything that is measured with containers, or why nothing is."""
    try:
        docker("version")
        build()
        size = {name: int(docker("image", "inspect", "--format={{.Size}}", ref)) / 1e6
                for name, ref in (("base", BASE), ("ours", tag("ours")), ("textbook", tag("textbook")))}  # fmt: skip
        return {
            "sizes": {name: size[name] - size["base"] for name in PORTS},
            "account": {name: account(tag(name)) for name in PORTS},
            "runs": [limited(image, limits, seconds) for limits in LIMITS for image in PORTS],
        }
    except StackError as error:
        return {"skipped": str(error)}
