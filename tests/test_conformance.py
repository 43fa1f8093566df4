"""What each cloud does to the image, a row a cloud: `make conformance` prints the table; IMAGE=… is another image.

Whatever the model is: a user's image with a model.sav of his own conforms too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import time
import uuid
from collections.abc import Iterator

import pytest

from tests.container import Container, container, docker
from tests.load import Load

# To all but the shell that sends it.
SIGNAL_ALL = "trap '' TERM INT; kill -s {} $(cd /proc && echo [0-9]*) 2>/dev/null; true"


@dataclasses.dataclass
class Cloud:
    """What a cloud promises and asks; everyone is how often each process gets the signal, 0: process 1 alone, once."""

    name: str
    port: int
    user: str  # "": as the image says
    memory: str
    signal: str
    grace: int  # seconds until it kills
    everyone: int = 0
    environment: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    ipv6_only: bool = False

    def run(self, network: str | None) -> contextlib.AbstractContextManager[Container]:
        user = [f"--user={self.user}"] if self.user else []
        environment = [f"--env={each}" for each in self.environment]
        limits = (f"--memory={self.memory}", "--env=RATE_LIMIT=0")  # all clients of the load are one to the rate limit
        return container(self.port, *user, *limits, *environment, *self.options, network=network)

    def stop(self, started: Container) -> None:
        if not self.everyone:
            docker("kill", f"--signal=SIG{self.signal}", started.name)
        for _ in range(self.everyone):  # the container may be gone by the next
            docker("exec", started.name, "sh", "-c", SIGNAL_ALL.format(self.signal), check=False)


READ_ONLY = ("--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges")
CLOUDS = [
    Cloud("Heroku", 5000, "52973:52973", "512m", "TERM", 30, 3, ("PORT=5000", "DYNO=web.1"), ("--cpus=0.5",)),
    Cloud("Cloud Run", 8080, "", "512m", "TERM", 10, 0, ("PORT=8080", "K_SERVICE=loja"), ("--cpus=1",)),
    Cloud("Render, Railway, Koyeb", 10000, "", "512m", "TERM", 30, 0, ("PORT=10000",), ("--cpus=0.5",)),
    Cloud("Azure", 80, "", "512m", "TERM", 30, 0, ("PORT=80",), ("--sysctl=net.ipv4.ip_unprivileged_port_start=0",)),
    Cloud("Fly", 8080, "", "256m", "INT", 5),
    Cloud("Fly, to every process", 8080, "", "256m", "INT", 5, 1),
    Cloud("OpenShift", 8080, "1000660000:0", "512m", "TERM", 30, 0, (), READ_ONLY),
    Cloud("Kubernetes, IPv6 only", 8080, "52973:0", "512m", "TERM", 30, 0, (), READ_ONLY, ipv6_only=True),
]
COLUMNS = "{:23} {:>5} {:12} {:4} {:6} {:19} {:>5} {:>6} {:>8} {:>4} {:>6} {:>6}  {}"


@pytest.fixture(scope="module", autouse=True)
def table(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    heads = "cloud port user root memory stop grace start answered lost closed ended verdict".split()
    rows = [COLUMNS.format(*heads)]
    yield rows
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("", *rows, sep="\n")


@pytest.fixture
def ipv6_network() -> Iterator[str]:
    name = f"cadastro-{uuid.uuid4().hex[:8]}"
    docker("network", "create", "--ipv6", f"--subnet=fd{name[-2:]}:{name[-6:-2]}::/64", name)
    yield name
    docker("network", "rm", name)


@pytest.mark.parametrize("cloud", CLOUDS, ids=lambda cloud: cloud.name)
def test_conforms(cloud: Cloud, table: list[str], request: pytest.FixtureRequest) -> None:
    network = request.getfixturevalue("ipv6_network") if cloud.ipv6_only else None
    outcome: list[str] = ["-"] * 5
    verdict = "FAIL"
    try:
        with cloud.run(network) as started:
            begun = time.monotonic()
            assert started.first_answer(60) == 200  # in particular, no 502
            outcome[0] = f"{time.monotonic() - begun:.1f} s"
            assert started.request("GET", "/cadastro.html").status == 200
            assert started.request("GET", "/api/health").status == 200
            known = started.request("GET", "/api/modelo").json()["categorias"]
            assert started.predict("boneca de pano").json()["categoria"] in known
            uid = docker("exec", started.name, "id", "-u").stdout.strip()
            assert uid == cloud.user.partition(":")[0] if cloud.user else uid != "0"

            with (
                Load(started.port, 8, keep_alive=True, host=started.host) as kept,
                Load(started.port, 8, keep_alive=False, host=started.host) as fresh,
            ):
                while kept.statuses.total() < 100 or fresh.statuses.total() < 100:
                    assert started.running()
                stopped = datetime.datetime.now(datetime.UTC)
                cloud.stop(started)
                status = started.exit_code(cloud.grace)
            ended = datetime.datetime.fromisoformat(started.inspect("{{json .State.FinishedAt}}").strip('"'))
            seconds = (ended - stopped).total_seconds()
            oom_killed = started.inspect("{{.State.OOMKilled}}")
            logged = {json.loads(line)["request_id"] for line in started.logs()[0].splitlines()}

        lost = kept.cut + fresh.cut + [each for each in kept.closed + kept.reset + fresh.reset if each in logged]
        outcome[1:] = [
            str(kept.statuses[200] + fresh.statuses[200]),
            str(len(lost)),
            f"{len(kept.closed)}/8",
            f"{seconds:.1f} s",
        ]
        assert set(kept.statuses) | set(fresh.statuses) == {200}
        assert lost == []
        assert kept.reset + fresh.reset == []
        assert (status, oom_killed) == (0, "false")
        assert seconds < 4
        verdict = "pass"
    finally:
        whom = {0: "process 1", 1: "all", 3: "all, thrice"}[cloud.everyone]
        root = "ro" if "--read-only" in cloud.options else "rw"
        asked = (cloud.name, cloud.port, cloud.user or "image's", root, cloud.memory, f"{cloud.signal} to {whom}")
        table.append(COLUMNS.format(*asked, f"{cloud.grace} s", *outcome, verdict))
