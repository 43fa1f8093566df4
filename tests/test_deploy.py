"""The manifests in deploy/: valid against the schemas, and the one for Kubernetes really run, by podman."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.conftest import ROOT, free_port
from tests.container import Container, docker, image
from tests.load import Load

MANIFESTS = [each for each in yaml.safe_load_all((ROOT / "deploy" / "kubernetes.yaml").read_text()) if each]


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda manifest: manifest["kind"])
def test_kubernetes_manifest_is_valid(manifest: dict[str, Any]) -> None:
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def test_kubernetes_manifests_name_each_other() -> None:
    deployment, service, scaler = MANIFESTS
    pod = deployment["spec"]["template"]
    (served,) = pod["spec"]["containers"]
    (port,) = served["ports"]

    assert [each["kind"] for each in MANIFESTS] == ["Deployment", "Service", "HorizontalPodAutoscaler"]
    assert pod["metadata"]["labels"] == service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]
    assert service["spec"]["ports"][0]["targetPort"] == port["name"]
    assert scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(served)
    stop = int(served["lifecycle"]["preStop"]["exec"]["command"][1]) + 4
    assert stop < pod["spec"]["terminationGracePeriodSeconds"]


needs_podman = pytest.mark.skipif(not shutil.which("podman"), reason="there is no podman to play the manifest")


@contextlib.contextmanager
def pod(folder: Path) -> Iterator[Container]:
    """Run the manifest's pod by `podman play kube` under a name of its own, on a free port of this machine."""
    name, port = f"cadastro-{uuid.uuid4().hex[:8]}", free_port()
    manifest = yaml.safe_load(yaml.safe_dump(MANIFESTS[0]))
    manifest["metadata"]["name"] = name
    spec = manifest["spec"]["template"]["spec"]
    spec["containers"][0]["image"] = image()
    spec["containers"][0]["ports"][0] |= {"hostPort": port, "hostIP": "127.0.0.1"}
    spec["volumes"][0]["name"] = spec["containers"][0]["volumeMounts"][0]["name"] = (
        name  # podman shares a name's volume
    )
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(manifest))
    started = Container.at(f"{name}-pod-0-cadastro-produto", port)
    try:
        subprocess.run(["podman", "play", "kube", file], check=True, capture_output=True)
        assert started.first_answer() == 200
        yield started
    finally:
        subprocess.run(["podman", "pod", "rm", "--force", "--time=0", f"{name}-pod-0"], check=True, capture_output=True)
        docker("volume", "rm", "--force", name)


@needs_podman
def test_pod_of_the_manifest_answers_without_privilege_on_a_read_only_root(tmp_path: Path) -> None:
    with pod(tmp_path) as started:
        status = docker("exec", started.name, "cat", "/proc/self/status").stdout
        written = docker("exec", started.name, "touch", "/app/x", check=False)

        assert started.predict("boneca de pano").json() == {"categoria": "brinquedo"}
        assert started.request("GET", "/cadastro.html").status == 200
        assert started.request("GET", "/api/health").status == 200
        assert docker("exec", started.name, "id", "-u").stdout.strip() == "10001"
    fields = dict(line.split(":\t", 1) for line in status.splitlines())
    assert (int(fields["CapEff"], 16), fields["NoNewPrivs"], fields["Seccomp"]) == (0, "1", "2")
    assert written.returncode != 0


FRONT = """
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/errors;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    upstream pods {{ {servers} keepalive 16; }}
    server {{
        listen 127.0.0.1:{port};
        proxy_http_version 1.1; proxy_set_header Connection ""; proxy_next_upstream off;
        location / {{ proxy_pass http://pods; }}
    }}
}}
"""


class Front:
    """An nginx in the place of the Service: it repeats nothing, so that what a pod loses is lost."""

    def __init__(self, folder: Path, *pods: Container) -> None:
        self.folder, self.port = folder, free_port()
        self.write(*pods)
        self.process = subprocess.Popen(["nginx", "-e", "stderr", "-c", folder / "front.conf"])

    def write(self, *pods: Container) -> None:
        servers = "".join(f"server 127.0.0.1:{each.port};" for each in pods)
        (self.folder / "front.conf").write_text(FRONT.format(folder=self.folder, port=self.port, servers=servers))

    def use(self, *pods: Container) -> None:
        self.write(*pods)
        self.process.send_signal(signal.SIGHUP)


def wait_for_more(load: Load, count: int = 200) -> None:
    enough, deadline = load.statuses.total() + count, time.monotonic() + 60
    while load.statuses.total() < enough:
        assert time.monotonic() < deadline


@needs_podman
def test_rolling_update_under_load_loses_nothing(tmp_path: Path) -> None:
    with contextlib.ExitStack() as olds, contextlib.ExitStack() as news:
        old = [olds.enter_context(pod(tmp_path)) for _ in range(2)]
        front = Front(tmp_path, *old)
        try:
            with Load(front.port, 8) as fresh, Load(front.port, 8, keep_alive=True) as kept:
                wait_for_more(fresh)
                serving = list(old)
                for each in old:  # maxSurge 1, maxUnavailable 0; the Service hears of each first
                    serving.append(news.enter_context(pod(tmp_path)))
                    front.use(*serving)
                    serving.remove(each)
                    front.use(*serving)
                    docker("stop", each.name)
                    wait_for_more(fresh)
                lost = [*fresh.reset, *fresh.cut, *kept.reset, *kept.cut]
                answered = fresh.statuses + kept.statuses
                front.process.terminate()
        finally:
            front.process.kill()
            front.process.wait()

    assert lost == []
    assert set(answered) == {200}
