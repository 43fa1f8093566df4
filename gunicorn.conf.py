"""How gunicorn runs the app: its process-level settings, each with its reason. gunicorn finds this file by itself.

What others come to: benchmarks/settings.md, by `make bench-settings`.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import math
import os
import select
import socket
from pathlib import Path
from typing import Any

from gunicorn.workers.sync import SyncWorker

wsgi_app = "app:app"

# One core computes one prediction; the numeric libraries' own threads would only fight over it. They read this as they
# load, so it must be set before the app is.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

# The model is loaded and tried once, before any socket exists, and its pages are shared by the workers.
preload_app = True


class Worker(SyncWorker):  # type: ignore[misc] # gunicorn has no type hints
    """One request at a time: a prediction is pure computation, and nginx does the waiting for slow clients.

    It takes its next from every socket in turn, so that /health, on one of its own, never waits behind the queue.
    """

    def handle(self, listener: socket.socket, client: socket.socket, addr: Any) -> None:
        """Answer, unless nginx closed the connection as it waited: its client has gone, or was told to come again."""
        poll = select.poll()
        poll.register(client, 0)
        if poll.poll(0):  # POLLHUP
            client.close()
        else:
            super().handle(listener, client, addr)

    def handle_request(self, listener: socket.socket, req: Any, client: socket.socket, addr: Any) -> None:
        """Answer and close, since the app has read all of the request.

        gunicorn would wait for nginx to close first, lest what was not read resets the connection: a third of the time.
        """
        super().handle_request(listener, req, client, addr)
        client.close()


worker_class: type[Worker] | str = Worker

# More than the connections that nginx opens at once (max_conns in `default`), or they would be refused with a 502.
backlog = 1024

# A worker that hangs is replaced after this many seconds; a prediction takes milliseconds.
timeout = 10


def worker_abort(_worker: Any) -> None:
    """Say where a hung worker is, and end it: gunicorn would raise SystemExit there, and log it with the exceptions
    around it, whose words may be the seller's text.
    """
    faulthandler.dump_traceback(all_threads=False)
    os._exit(1)


# Seconds that a stop waits for a hung worker. By then nginx has every answer (see launch.py).
graceful_timeout = 1

# gunicorn must not refuse, with its own HTML, what nginx let through: nginx bounds the line (before it escapes it anew,
# which makes it longer), passes on only headers that `default` names, and takes any method in capitals.
limit_request_line = 0
permit_unconventional_http_method = True

# Its socket would need a writable home.
control_socket_disable = True

# Where there is no nginx the app has the port itself, under the same paths, with the limits and errors of nginx and its
# log; what waits for a worker is the backlog, and /health waits in it too, so it is no longer than nginx's queue.
if "STANDALONE" in os.environ:
    raw_env = ["SCRIPT_NAME=/api"]
    worker_class = "standalone.Worker"
    logger_class = "standalone.Log"
    backlog = 128
    limit_request_line = 4094
    limit_request_field_size = 4094

# nginx writes the access log; what is below a warning would be noise between its lines.
loglevel = "warning"


def cgroup_number(*paths: str) -> float:
    """Return the first number in the first of these files under /sys/fs/cgroup that is there; infinity for no limit."""
    for path in paths:
        try:
            first = Path("/sys/fs/cgroup", path).read_text().split()[0]
        except OSError:
            continue
        return float(first) if first.isdecimal() else math.inf  # "max" (v2) and "-1" (v1) mean no limit
    return math.inf


def worker_count() -> int:
    """Return one worker a core, but two at least, so that a hung or dying one is covered, as far as memory allows.

    Each worker is reckoned at 60 MB beside 150 MB for the master with the model, within 80 % of the limit. One more
    than cores answers a tenth less.
    """
    quota = cgroup_number("cpu.max", "cpu/cpu.cfs_quota_us") / 100_000  # the period is always 100 ms in practice
    cores = math.ceil(min(quota, len(os.sched_getaffinity(0))))
    memory = cgroup_number("memory.max", "memory/memory.limit_in_bytes") / 2**20
    return int(max(1, min(max(2, cores), (memory * 0.8 - 150) // 60)))


workers = int(os.environ.get("WEB_CONCURRENCY") or worker_count())


def when_ready(_server: Any) -> None:
    """Tell launch.py that the sockets listen; what the master holds by now is left alone by the collector, so
    that its pages stay shared, and what loading the model left free goes back, or each worker would fill it anew: 3 MB.
    """
    gc.collect()
    gc.freeze()
    with contextlib.suppress(AttributeError):  # glibc has it, musl has not
        ctypes.CDLL(None).malloc_trim(0)
    if "READY_FILE" in os.environ:
        Path(os.environ["READY_FILE"]).touch()
