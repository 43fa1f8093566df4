"""The README: its examples are run, and no setting is missing from it."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from tests.conftest import ROOT, Server, running

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_example_prints_what_the_readme_says(server: Server) -> None:
    ((command, answer),) = re.findall(r"```console\n\$ (.*)\n(.*)\n```", README)

    shown = subprocess.run(
        command.replace("localhost:8080", f"127.0.0.1:{server.port}"), shell=True, capture_output=True
    )

    assert shown.stdout.decode().strip() == answer


def test_commands_for_the_log_tell_rates_latency_and_drift(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        texts = ["boneca de pano", "boneca", "batom vermelho", "açúcar mascavo", "zzzz"]
        answers = [server.predict(text).json()["categoria"] for text in texts]
        server.request("GET", "/nada")
    lines = [json.loads(line) for line in server.log().splitlines()]
    (tmp_path / "log").write_bytes(server.stdout.read_bytes())

    rates, latency, drift = (
        subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
        for command in re.findall(r"^jq .*", README, re.MULTILINE)
    )

    counts = [line.split() for line in rates.splitlines()]
    assert {int(status): int(count) for count, _, status in counts} == {200: 5, 404: 1}
    seconds = sorted(line["seconds"] for line in lines if line["categoria"])
    assert json.loads(latency) == {"median": seconds[2], "p99": seconds[4]}
    (day,) = map(json.loads, drift.splitlines())
    assert (day["predictions"], day["uncertain"]) == (5, sum(line["incerto"] is True for line in lines))
    assert day["categories"] == {name: answers.count(name) for name in answers}


def test_every_setting_is_documented() -> None:
    sources = "".join((ROOT / name).read_text() for name in ("entrypoint.sh", "gunicorn.conf.py", "app.py"))
    used = set(re.findall(r'\$\{([A-Z_]+)-|os\.environ\.get\("([A-Z_]+)"', sources))

    assert {name for pair in used for name in pair if name} == set(
        re.findall(r"^\| `([A-Z_]+)` \|", README, re.MULTILINE)
    )


def test_lock_holds_what_is_required() -> None:
    required, locked = (
        set(re.findall(r"^[a-z0-9-]+==[^ \n]+", (ROOT / name).read_text(), re.MULTILINE))
        for name in ("requirements.txt", "requirements.lock")
    )

    assert required == locked  # else .ci/pin-hashes is due
