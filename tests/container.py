"""The image as a running container, for the tests of it; where no container engine answers they are skipped."""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import os
import subprocess
import time
import uuid
from collections.abc import Iterator

import pytest

from tests.conftest import ROOT, Answer, free_port


def docker(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=check)


try:
    engine = docker("version", check=False)
    missing = engine.returncode and "no container engine answers `docker version`"
except FileNotFoundError:
    missing = "there is no `docker` command"
if missing:
    pytest.skip(f"the image is not tested: {missing}", allow_module_level=True)


@functools.cache
def image(target: str = "") -> str:
    """Return $IMAGE, which is there already, or the id of one built from this checkout, up to that target."""
    if (given := os.environ.get("IMAGE")) and not target:
        return given
    up_to = [f"--target={target}"] if target else []
    built = docker("build", "--quiet", "-t", f"cadastro-produto:test{target}", *up_to, str(ROOT), check=False)
    assert built.returncode == 0, built.stdout[-3000:] + built.stderr[-3000:]
    return built.stdout.strip()  # and not its name, which another checkout's tests may take meanwhile


class Container:
    """A running container, whose port is published on a free one of this machine; in a network without IPv4, reached
    at its own address.
    """

    def __init__(self, port: int, *options: str, network: str | None = None, target: str = "") -> None:
        self.name = f"cadastro-{uuid.uuid4().hex[:8]}"
        self.host, self.port = "127.0.0.1", port if network else free_port()
        where = f"--network={network}" if network else f"--publish=127.0.0.1:{self.port}:{port}"
        docker("run", "--detach", f"--name={self.name}", where, *options, image(target))
        if network:
            self.host = self.inspect("{{range .NetworkSettings.Networks}}{{.GlobalIPv6Address}}{{end}}")

    @classmethod
    def at(cls, name: str, port: int) -> Container:
        """Return one that others have started and published."""
        started = cls.__new__(cls)
        started.name, started.host, started.port = name, "127.0.0.1", port
        return started

    def request(self, method: str, path: str, body: str | None = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=10)
        with contextlib.closing(connection):
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            return Answer(connection.getresponse())

    def predict(self, descricao: str, **headers: str) -> Answer:
        body = json.dumps({"descricao": descricao})
        return self.request("POST", "/api/predizer_categoria", body, Content_Type="application/json", **headers)

    def first_answer(self, seconds: float = 60) -> int:
        """Return the status of the first answer; until the port opens, connections are refused or closed unanswered."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.running():
            with contextlib.suppress(OSError, http.client.RemoteDisconnected):
                return self.predict("boneca de pano").status
        raise AssertionError(f"the container did not start: {self.logs()}")

    def running(self) -> bool:
        return self.inspect("{{.State.Running}}") == "true"

    def inspect(self, template: str) -> str:
        return docker("inspect", f"--format={template}", self.name).stdout.strip()

    def exit_code(self, seconds: float) -> int:
        waited = subprocess.run(
            ["docker", "wait", self.name], capture_output=True, text=True, check=True, timeout=seconds
        )
        return int(waited.stdout)

    def logs(self) -> tuple[str, str]:
        """Return stdout and stderr, with what nginx held back for a moment (see `default`)."""
        time.sleep(0.1)
        shown = docker("logs", self.name)
        return shown.stdout, shown.stderr


@contextlib.contextmanager
def container(port: int, *options: str, network: str | None = None, target: str = "") -> Iterator[Container]:
    started = Container(port, *options, network=network, target=target)
    try:
        yield started
    finally:
        docker("rm", "--force", started.name)
