"""The image, built by `docker build` from the unmodified Dockerfile and run as the clouds run it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pickle
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sklearn
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.naive_bayes import MultinomialNB

from tests.conftest import CATEGORIES, ROOT, TEXTS, Answer, free_port

IMAGE = "cadastro-produto:test"
AS_A_CLOUD = ("--user=52973:0", "--read-only", "--tmpfs=/tmp", "--memory=512m", "--cap-drop=ALL")


def docker(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=check)


try:
    engine = docker("version", check=False)
    missing = engine.returncode and "no container engine answers `docker version`"
except FileNotFoundError:
    missing = "there is no `docker` command"
if missing:
    pytest.skip(f"the image is not tested: {missing}", allow_module_level=True)


@pytest.fixture(scope="session", autouse=True)
def image() -> None:
    built = docker("build", "-t", IMAGE, str(ROOT), check=False)
    assert built.returncode == 0, built.stdout[-3000:] + built.stderr[-3000:]


class Container:
    """A running container, whose port is published on a free one of this machine."""

    def __init__(self, port: int, *options: str) -> None:
        self.name = f"cadastro-{uuid.uuid4().hex[:8]}"
        self.port = free_port()
        docker("run", "--detach", f"--name={self.name}", f"--publish=127.0.0.1:{self.port}:{port}", *options, IMAGE)

    def request(self, method: str, path: str, body: str | None = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
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
        return docker("inspect", "--format={{.State.Running}}", self.name).stdout.strip() == "true"

    def exit_code(self, seconds: float) -> int:
        waited = subprocess.run(
            ["docker", "wait", self.name], capture_output=True, text=True, check=True, timeout=seconds
        )
        return int(waited.stdout)

    def logs(self) -> tuple[str, str]:
        shown = docker("logs", self.name)
        return shown.stdout, shown.stderr


@contextlib.contextmanager
def container(port: int, *options: str) -> Iterator[Container]:
    started = Container(port, *options)
    try:
        yield started
    finally:
        docker("rm", "--force", started.name)


@pytest.mark.parametrize(
    ("port", "options"),
    [
        (8080, ()),
        (5000, ("--env=PORT=5000",)),
        (54321, ("--env=PORT=54321", "--user=1000660000:1000660000", "--cpus=0.5")),
        (80, ("--env=PORT=80", "--sysctl=net.ipv4.ip_unprivileged_port_start=0")),
    ],
    ids=["no PORT", "5000", "a uid without gid 0, half a core", "80"],
)
def test_serves_as_any_uid_on_a_read_only_disk(port: int, options: tuple[str, ...]) -> None:
    with container(port, *AS_A_CLOUD, *options) as started:
        assert started.first_answer() == 200
        assert started.predict("boneca de pano").json() == {"categoria": "brinquedo"}
        assert started.request("GET", "/cadastro.html").status == 200
        out, err = started.logs()

    assert all(json.loads(line)["request_id"] for line in out.splitlines())
    assert err == f"cadastro-produto: http://localhost:{port}/cadastro.html\n"


def test_serves_on_a_writable_disk_as_the_image_says() -> None:
    with container(8080) as started:
        assert started.first_answer() == 200
        assert docker("exec", started.name, "id", "-u").stdout.strip() == "10001"


@pytest.mark.parametrize("port", ["80", "0", "abc"])
def test_port_that_cannot_be_is_refused(port: str) -> None:
    with container(8080, *AS_A_CLOUD, f"--env=PORT={port}") as started:
        assert started.exit_code(10) == 64
        assert [len(stream.splitlines()) for stream in started.logs()] == [0, 1]


@pytest.mark.parametrize("signal", ["SIGTERM", "SIGINT"])
def test_stop_ends_it_in_order_within_four_seconds(signal: str) -> None:
    with container(8080, *AS_A_CLOUD, f"--stop-signal={signal}") as started:
        started.first_answer()
        begun = time.monotonic()
        docker("stop", "--time=10", started.name)
        seconds = time.monotonic() - begun

        assert started.exit_code(5) == 0
        assert seconds < 4


@pytest.mark.parametrize("name", ["nginx", "gunicorn"])
def test_death_of_either_process_ends_the_container_and_is_named(name: str) -> None:
    kill_master = f"""for process in /proc/[0-9]*; do
        grep -q {name} $process/comm && grep -q "^PPid:[[:space:]]1$" $process/status && kill -9 ${{process#/proc/}}
    done"""
    with container(8080, *AS_A_CLOUD) as started:
        started.first_answer()
        begun = time.monotonic()
        docker("exec", started.name, "sh", "-c", kill_master, check=False)

        assert started.exit_code(5) != 0
        assert time.monotonic() - begun < 4  # 2 s and what the engine takes to say so
        assert f"{name} ended" in started.logs()[1]


def test_restart_of_the_same_container_works() -> None:
    with container(8080, *AS_A_CLOUD) as started:
        started.first_answer()
        docker("restart", "--time=10", started.name)
        assert started.first_answer() == 200
        docker("kill", started.name)
        docker("start", started.name)
        assert started.first_answer() == 200


def test_model_mounted_over_the_images_own_is_served(tiny_model: Path) -> None:
    tiny_model.chmod(0o644)
    with container(8080, *AS_A_CLOUD, f"--volume={tiny_model}:/app/model.sav:ro") as started:
        started.first_answer()

        assert started.request("GET", "/api/modelo").json()["categorias"] == ["brinquedo", "livro", "maquiagem"]


def build_with(model: bytes, folder: Path) -> subprocess.CompletedProcess[str]:
    """Build the image from this checkout with another model file in it."""
    context = folder / "context"
    shutil.copytree(ROOT, context, ignore=shutil.ignore_patterns(".git", ".venv", ".*_cache", ".cache"))
    (context / "model.sav").write_bytes(model)
    return docker("build", "-t", f"{IMAGE}-other-model", str(context), check=False)


def tiny(vect: Any = None, clf: Any = None, **meta: Any) -> bytes:
    vect = vect or CountVectorizer().fit(TEXTS)
    clf = clf or MultinomialNB().fit(vect.transform(TEXTS), CATEGORIES)
    return pickle.dumps({"vect": vect, "clf": clf, "meta": meta})


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (b"<html>", "not a pickle"),
        (pickle.dumps(os.system), "refuses posix.system"),
        (tiny(clf=MultinomialNB()), "cannot predict"),
        (tiny(frases=[{"texto": "boneca de pano", "categoria": "livro"}]), "its card says 'livro'"),
    ],
    ids=["does not load", "calls", "cannot predict", "gets a phrase wrong"],
)
def test_build_fails_with_a_model_that_does_not_do(model: bytes, message: str, tmp_path: Path) -> None:
    built = build_with(model, tmp_path)

    assert built.returncode != 0
    assert message in built.stdout + built.stderr


def test_build_with_a_model_of_another_version_warns_with_both_names(tmp_path: Path) -> None:
    ours = sklearn.__version__
    older = "0" * (len(ours) - 2) + ".1"

    built = build_with(tiny().replace(ours.encode(), older.encode()), tmp_path)

    assert built.returncode == 0
    assert f"was made by scikit-learn {older} and is read by {ours}" in built.stdout + built.stderr


def test_client_behind_a_router_is_the_last_entry_of_x_forwarded_for() -> None:
    with container(8080, *AS_A_CLOUD, "--env=RATE_LIMIT=1") as started:  # the engine's bridge is a private address
        started.first_answer()
        spoofed = [started.predict("boneca", X_Forwarded_For=f"198.51.100.{i}, 203.0.113.7").status for i in range(130)]
        other = started.predict("boneca", X_Forwarded_For="203.0.113.8").status
        clients = {json.loads(line)["client"] for line in started.logs()[0].splitlines()}

    assert spoofed.count(429) >= 10
    assert other == 200
    assert {"203.0.113.7", "203.0.113.8"} <= clients


def test_holds_what_clouds_need_and_no_more() -> None:
    listing = docker("run", "--rm", IMAGE, "sh", "-c", "command -v sh; command -v curl; ls -A /app").stdout.split()

    assert [Path(command).name for command in listing[:2]] == ["sh", "curl"]
    assert set(listing[2:]) == {
        ".cache",
        "__pycache__",
        "app.py",
        "classifier.py",
        "compiler.py",
        "default",
        "entrypoint.sh",
        "gunicorn.conf.py",
        "model.sav",
        "model_file.py",
        "nginx.conf",
        "requirements.lock",
        "requirements.txt",
        "scorer.py",
        "webclient",
    }
