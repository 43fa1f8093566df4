"""The image, built from the unmodified Dockerfile; what each cloud does to it is in test_conformance.py."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import sklearn
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.naive_bayes import MultinomialNB

from tests.conftest import CATEGORIES, ROOT, TEXTS
from tests.container import container, docker, image

AS_A_CLOUD = ("--user=52973:0", "--read-only", "--tmpfs=/tmp", "--memory=512m", "--cap-drop=ALL")


def test_start_is_quiet_under_any_uid() -> None:
    with container(54321, *AS_A_CLOUD, "--env=PORT=54321", "--user=1000660000:1000660000") as started:
        assert started.first_answer() == 200
        out, err = started.logs()

    assert all(json.loads(line)["request_id"] for line in out.splitlines())
    assert err == "cadastro-produto: http://localhost:54321/cadastro.html\n"


def test_serves_on_a_writable_disk_as_the_image_says() -> None:
    with container(8080) as started:
        assert started.first_answer() == 200
        assert docker("exec", started.name, "id", "-u").stdout.strip() == "10001"


@pytest.mark.parametrize("port", ["80", "0", "abc"])
def test_port_that_cannot_be_is_refused(port: str) -> None:
    with container(8080, *AS_A_CLOUD, f"--env=PORT={port}") as started:
        assert started.exit_code(10) == 64
        assert [len(stream.splitlines()) for stream in started.logs()] == [0, 1]


@pytest.mark.parametrize("signal", ["TERM", "INT"])
def test_signal_during_the_start_ends_it(signal: str) -> None:
    for milliseconds in (0, 50, 100, 200, 400):
        with container(8080, *AS_A_CLOUD) as started:
            threading.Event().wait(milliseconds / 1000)
            docker("kill", f"--signal={signal}", started.name)

            assert started.exit_code(10) == 0
            assert started.logs()[0] == ""


@pytest.mark.parametrize("name", ["nginx", "gunicorn"])
def test_death_of_either_process_ends_the_container_and_is_named(name: str) -> None:
    kill_master = f"""for process in /proc/[0-9]*; do
        parent=$(awk '/^PPid/ {{print $2}}' $process/status)
        grep -q {name} $process/comm && ! grep -q {name} /proc/$parent/comm && kill -9 ${{process#/proc/}}
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
    return docker("build", "-t", "cadastro-produto:test-other-model", str(context), check=False)


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
    listing = docker("run", "--rm", image(), "sh", "-c", "command -v sh; command -v curl; ls -A /app").stdout.split()

    assert [Path(command).name for command in listing[:2]] == ["sh", "curl"]
    assert set(listing[2:]) == {
        ".cache",
        "__pycache__",
        "app.py",
        "cache.py",
        "classifier.py",
        "compiler.py",
        "default",
        "entrypoint.sh",
        "gunicorn.conf.py",
        "launch.py",
        "model.sav",
        "model_file.py",
        "native.py",
        "nginx.conf",
        "requirements.lock",
        "requirements.txt",
        "scorer.c",
        "scorer.py",
        "standalone.py",
        "webclient",
    }
