"""The stacks that are compared: how each is installed, started, asked, weighed and ended."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.load import post

ROOT = Path(__file__).parent.parent
PEERS = ROOT / "benchmarks" / "peers"
CACHE = ROOT / ".cache" / "benchmarks"
MODEL = Path(os.environ.get("MODEL", ROOT / "model.sav")).resolve()
START_SECONDS = 60
NOT_PASSED_ON = {"PYTHONPATH", "WEB_CONCURRENCY", "VIRTUAL_ENV", "GUNICORN_CMD_ARGS"}
NGINX = ["nginx", "-e", "stderr", "-c", "$RUN/nginx.conf"]
OURS = ["$ROOT/entrypoint.sh"]
VARIANT = {"GUNICORN_CMD_ARGS": f"--config {PEERS / 'gunicorn.conf.py'}"}


class StackError(RuntimeError):
    """A stack could not be installed, started, or answered wrongly; the message says why."""


@dataclass(frozen=True)
class Stack:
    """One way to serve the model. In its commands and files $PORT, $BACK, $RUN, $ROOT and $MODEL are replaced."""

    name: str
    title: str
    commands: list[list[str]]
    path: str = "/api/predizer_categoria"
    wrap: Callable[[str], Any] = lambda text: {"descricao": text}
    answer: str = '"{}"'  # what an answer's body holds, for a category
    environment: dict[str, str] = field(default_factory=dict)
    pins: tuple[str, ...] = ()  # what its own venv holds; without, it runs in the product's
    prepare: tuple[str, ...] = ()
    files: dict[str, Path] = field(default_factory=dict)  # written into $RUN
    folder: Path = ROOT  # where its commands run

    @property
    def venv(self) -> Path:
        return CACHE / self.name.partition("-")[0] if self.pins else ROOT / ".venv"

    @property
    def bodies(self) -> Path:
        """Where the bodies of its requests lie, one a line."""
        return CACHE / f"bodies{self.path.replace('/', '-')}.jsonl"

    def body(self, text: str) -> bytes:
        return json.dumps(self.wrap(text), ensure_ascii=False).encode()

    def expected(self, category: str) -> bytes:
        return self.answer.format(category).encode()

    def install(self) -> None:
        """Make the venv, once for these pins, and run what prepares the stack for the model."""
        mark = self.venv / hashlib.sha256(repr(self.pins).encode()).hexdigest()
        pip = ("pip", "install", "--quiet", "--disable-pip-version-check", *self.pins)
        try:
            if self.pins and not mark.exists():
                print(f"installing {self.title} into {self.venv.relative_to(ROOT)}", flush=True)
                self._run(sys.executable, "-m", "venv", str(self.venv))
                self._run(*pip)
                mark.touch()
            if self.prepare:
                self._run(*self.prepare)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            raise StackError(f"cannot be installed: {str(error.stderr)[-300:]}") from error

    def _run(self, *command: str) -> None:
        filled = [part.replace("$ROOT", str(ROOT)) for part in command]
        env = self.surroundings()
        found = shutil.which(filled[0], path=env["PATH"]) or filled[0]
        subprocess.run(
            [found, *filled[1:]], check=True, capture_output=True, text=True, env=env, cwd=PEERS, timeout=900
        )

    def surroundings(self) -> dict[str, str]:
        path = f"{self.venv / 'bin'}:{os.environ['PATH']}:/usr/sbin"
        ours = {"PATH": path, "PORT": "$PORT", "MODEL": str(MODEL), "RATE_LIMIT": "0", **self.environment}
        return {key: value for key, value in os.environ.items() if key not in NOT_PASSED_ON} | ours


class Live:
    """A started stack; `port` is where it answers, `seconds` how long it took to answer rightly."""

    def __init__(self, stack: Stack, run: Path, text: str, category: str) -> None:
        self.stack, self.port = stack, free_port()
        values = {"$PORT": str(self.port), "$BACK": str(free_port()), "$RUN": str(run), "$ROOT": str(ROOT)}
        values |= {"$SPARE": str(free_port()), "$MODEL": str(MODEL)}

        def fill(text: str) -> str:
            for name, value in values.items():
                text = text.replace(name, value)
            return text

        for name, source in stack.files.items():
            (run / name).write_text(fill(source.read_text()))
        environment = {key: fill(value) for key, value in stack.surroundings().items()}
        self._log = run / "log"
        with self._log.open("wb") as log:
            start = time.perf_counter()
            self.processes = [
                subprocess.Popen([fill(part) for part in command], env=environment, cwd=stack.folder,
                                 stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
                for command in stack.commands
            ]  # fmt: skip
        try:
            while not self.right(text, category):
                if time.perf_counter() - start > START_SECONDS or any(p.poll() is not None for p in self.processes):
                    raise StackError(f"did not start: {self._log.read_text(errors='replace')[-600:]}")
                time.sleep(0.005)
            self.seconds = time.perf_counter() - start
        except BaseException:
            self.end()
            raise

    def right(self, text: str, category: str) -> bool:
        """Ask once; return whether the answer is 200 and the category."""
        return ask(self.port, self.stack, text, category)

    def pss(self) -> float:
        """Return the proportional set size of all its processes, in MB."""
        total = 0
        for pid in family([process.pid for process in self.processes]):
            with contextlib.suppress(OSError):  # it may just have ended
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
                total += int(rollup.partition("\nPss:")[2].split()[0])
        return total * 1024 / 1e6

    def end(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            with contextlib.suppress(ProcessLookupError):  # its session holds nothing but what it started
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def ask(port: int, stack: Stack, text: str, category: str) -> bool:
    """Ask a stack once; return whether the answer is 200 and the category."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(post(stack.path, stack.body(text)))
            response = http.client.HTTPResponse(connection, method="POST")
            response.begin()
            body = json.dumps(json.loads(response.read()), ensure_ascii=False)  # some escape what is not ASCII
            return response.status == 200 and stack.answer.format(category) in body
    except (OSError, http.client.HTTPException, ValueError):
        return False


@contextlib.contextmanager
def running(stack: Stack, text: str, category: str) -> Iterator[Live]:
    """Start a stack, wait for the right answer, and end it, whatever happens."""
    with tempfile.TemporaryDirectory(prefix="benchmark.") as folder:
        Path(folder).chmod(0o755)  # nginx's workers are nobody where it was started by root
        live = Live(stack, Path(folder), text, category)
        try:
            yield live
        finally:
            live.end()


def family(pids: list[int]) -> list[int]:
    """Return these processes and all that descend from them."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found = list(pids)
    for pid in found:  # grows as it goes
        found += children.get(pid, [])
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def behind_nginx(*server: str) -> dict[str, Any]:
    """Return how a textbook's nginx, with Debian's defaults, stands before a server on $BACK."""
    files = {"nginx.conf": PEERS / "textbook.nginx"}
    return {"commands": [[*server], NGINX], "files": files, "folder": PEERS}


SKLEARN = "scikit-learn==1.9.1"  # that of requirements.txt: all read the same pickle
FASTAPI = ("fastapi==0.165.0", "uvicorn[standard]==0.54.0", "-r", "$ROOT/requirements.txt")
MLFLOW = str(CACHE / "mlflow/model")
CORES = str(len(os.sched_getaffinity(0)))
STACKS = [
    Stack(
        "textbook",
        "textbook: nginx, gunicorn -w 4, Flask, scikit-learn",
        **behind_nginx("gunicorn", "-c", "/dev/null", "-w", "4", "-b", "127.0.0.1:$BACK", "textbook:app"),
    ),
    Stack(
        "fastapi",
        "nginx, FastAPI, uvicorn, scikit-learn",
        **behind_nginx("uvicorn", "--workers", CORES, "--port", "$BACK", "fastapi_sklearn:app"),
        pins=FASTAPI,
    ),
    Stack(
        "litserve",
        "LitServe, scikit-learn",
        [["python", "litserve_api.py", "$PORT"]],
        path="/predict",
        folder=PEERS,
        pins=("litserve==0.2.19", SKLEARN),
    ),
    Stack(
        "bentoml",
        "BentoML, scikit-learn",
        [["bentoml", "serve", "bentoml_service:Category", "--host", "127.0.0.1", "--port", "$PORT"]],
        path="/predict",
        folder=PEERS,
        pins=("bentoml==1.4.39", SKLEARN),
        environment={"BENTOML_DO_NOT_TRACK": "True"},
    ),
    Stack(
        "mlserver",
        "MLServer, scikit-learn",
        [["mlserver", "start", "category"]],
        path="/v2/models/category/infer",
        wrap=lambda text: {"inputs": [{"name": "descricao", "shape": [1, 1], "datatype": "BYTES", "data": [text]}]},
        folder=PEERS,
        pins=("mlserver==1.7.1", "uvloop==0.21.0", SKLEARN),  # the newest uvloop breaks its workers
        environment={
            "MLSERVER_HTTP_PORT": "$PORT",
            "MLSERVER_GRPC_PORT": "$BACK",
            "MLSERVER_METRICS_PORT": "$SPARE",
            "PYTHONPATH": "category",
        },
    ),
    Stack(
        "mlflow",
        "mlflow models serve, scikit-learn",
        [["mlflow", "models", "serve", "-m", MLFLOW, "--env-manager", "local", "--port", "$PORT", "--workers", CORES]],
        path="/invocations",
        wrap=lambda text: {"inputs": [text]},
        folder=PEERS,
        pins=("mlflow==3.17.2", SKLEARN),
        prepare=("python", "mlflow_model.py", MLFLOW),
    ),
    Stack(
        "fastapi-ours",
        "our nginx, FastAPI, uvicorn, our scorer",
        [OURS],
        pins=FASTAPI,
        environment={"PATH": f"{PEERS}/uvicorn_as_gunicorn:{CACHE}/fastapi/bin:{os.environ['PATH']}:/usr/sbin"},
    ),
    Stack(
        "constant-wsgi",
        "limit: ours with a constant WSGI callable",
        [OURS],
        environment={**VARIANT, "BENCHMARK_APP": "benchmarks.peers.constant:application"},
        answer='"livro"',
    ),
    Stack(
        "constant-flask",
        "limit: ours with a constant Flask route",
        [OURS],
        environment={**VARIANT, "BENCHMARK_APP": "benchmarks.peers.constant_flask:app"},
        answer='"livro"',
    ),
    Stack(
        "ours-flask",
        "ours, by the Flask route alone",
        [OURS],
        environment={**VARIANT, "BENCHMARK_APP": "benchmarks.peers.flask_alone:app"},
    ),
    Stack("ours", "ours", [OURS]),
]
BY_NAME = {stack.name: stack for stack in STACKS}
PEERS_WITH_SKLEARN = ("fastapi", "litserve", "bentoml", "mlserver", "mlflow")
