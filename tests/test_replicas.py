"""Replicas of the API's image behind the image of nginx, in a network with names, as the README says."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import ROOT, Answer, free_port
from tests.container import Container, container, docker
from tests.load import Load

SERVED_READ_ONLY = ("--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--user=52973:0", "--memory=512m")


@pytest.fixture
def network() -> Iterator[str]:
    name = f"cadastro-{uuid.uuid4().hex[:8]}"
    docker("network", "create", name)
    yield name
    docker("network", "rm", "--force", name)


def lines(started: Container) -> list[dict[str, object]]:
    return [json.loads(line) for line in started.logs()[0].splitlines()]


def wait_for(what: Callable[[], bool], seconds: float) -> float:
    """Wait until it is so; return the seconds that it took."""
    begun = time.monotonic()
    while not what():
        assert time.monotonic() - begun < seconds
    return time.monotonic() - begun


def test_replicas_share_the_load_and_one_that_goes_costs_no_request(network: str) -> None:
    api = (8080, f"--network={network}", "--network-alias=api", *SERVED_READ_ONLY)
    with (
        container(*api, target="api") as first,
        container(*api, target="api") as second,
        container(*api, target="api") as third,
        container(8080, f"--network={network}", "--env=RATE_LIMIT=0", *SERVED_READ_ONLY, target="web") as web,
    ):
        assert web.first_answer() == 200  # in particular no 502, though nginx may have started before them
        assert web.request("GET", "/cadastro.html").status == 200
        for each in (first, second, third):
            each.first_answer()

        with Load(web.port, 4) as load:
            wait_for(lambda: all(len(lines(each)) > 50 for each in (first, second, third)), 60)
            docker("kill", first.name)
            with container(*api, target="api") as fourth:
                ready = wait_for(lambda: "http://" in fourth.logs()[1], 60)
                found = wait_for(lambda: len(lines(fourth)) > 0, 5)
                time.sleep(2)  # no request is under way any more that knows only the addresses from before
                docker("stop", second.name)
                docker("network", "disconnect", network, third.name)  # it answers no more, nor refuses
                before = len(lines(fourth))
                wait_for(lambda: len(lines(fourth)) > before + 200, 60)
                lost = [*load.reset, *load.closed, *load.cut]
                answered = lines(web)
                docker("stop", web.name)  # which ends the clients

    slowest = max(float(str(line["seconds"])) for line in answered)
    print(f"ready after {ready:.1f} s, found {found:.1f} s later; slowest answer {slowest} s", dict(load.statuses))
    assert lost == []
    assert set(load.statuses) == {200}
    assert slowest < 2  # a try at an address that answers no more is over after a second


def first_answer(started: Container, seconds: float = 60) -> Answer:
    """Return its first answer, of one whose engine's name is not known."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            return started.predict("boneca de pano")
    raise AssertionError("it did not start")


def test_commands_of_the_readme_run_it() -> None:
    (commands,) = re.findall(r"```sh\n(docker network create.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    name, port = f"cadastro-{uuid.uuid4().hex[:8]}", free_port()
    try:
        subprocess.run(
            commands.replace("shop", name).replace("8080:8080", f"127.0.0.1:{port}:8080"),
            shell=True,
            cwd=ROOT,
            check=True,
            capture_output=True,
        )
        answer = first_answer(Container.at(name, port))
        assert (answer.status, answer.json()) == (200, {"categoria": "brinquedo"})
    finally:
        started = docker("ps", "--quiet", f"--filter=network={name}").stdout.split()
        docker("rm", "--force", *started)
        docker("network", "rm", name)
        docker("rmi", "--force", f"{name}-web", f"{name}-api")


def test_compose_runs_it_in_one(tmp_path_factory: pytest.TempPathFactory) -> None:
    compose = ["docker", "compose"] if docker("compose", "version", check=False).returncode == 0 else ["podman-compose"]
    compose += ["--project-name", f"cadastro{uuid.uuid4().hex[:8]}"]
    port = free_port()
    checkout = tmp_path_factory.mktemp("compose") / "checkout"
    shutil.copytree(ROOT, checkout, ignore=shutil.ignore_patterns(".*_cache", ".git", ".venv", ".cache"))

    def run(*arguments: str) -> None:
        ended = subprocess.run(
            [*compose, *arguments], cwd=checkout, env=os.environ | {"PORT": str(port)}, capture_output=True, text=True
        )
        assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]

    try:
        run("up", "--build", "--detach")
        answer = first_answer(Container.at("web", port))
        assert (answer.status, answer.json()) == (200, {"categoria": "brinquedo"})
    finally:
        run("down", "--timeout", "0", "--rmi", "local")
