"""The README: its examples are run, and no setting is missing from it."""

from __future__ import annotations

import re
import subprocess

from tests.conftest import ROOT, Server

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_example_prints_what_the_readme_says(server: Server) -> None:
    ((command, answer),) = re.findall(r"```console\n\$ (.*)\n(.*)\n```", README)

    shown = subprocess.run(
        command.replace("localhost:8080", f"127.0.0.1:{server.port}"), shell=True, capture_output=True
    )

    assert shown.stdout.decode().strip() == answer


def test_every_setting_is_documented() -> None:
    sources = "".join((ROOT / name).read_text() for name in ("entrypoint.sh", "gunicorn.conf.py", "app.py"))
    used = set(re.findall(r'\$\{([A-Z_]+)-|os\.environ\.get\("([A-Z_]+)"', sources))

    assert {name for pair in used for name in pair if name} == set(
        re.findall(r"^\| `([A-Z_]+)` \|", README, re.MULTILINE)
    )
