"""Starts gunicorn and, once it can predict, nginx; stops both on TERM or INT and loses no request; fails when one dies.

launch.py ROLE PORT RUN [CAT], as entrypoint.sh calls it: "both", or one of them alone, nginx as "web" or gunicorn as
"api"; the port, the folder of this run, the process that copies the log.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import signal
import socket
import sys
import time

STOP = {signal.SIGTERM, signal.SIGINT}
PR_SET_PDEATHSIG, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, PR_SET_NO_NEW_PRIVS = 1, 22, 2, 38
SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO = 0x7FFF0000, 0x00050000
SO_BINDTOIFINDEX = 62
RT_SIGACTION = {"x86_64": (0xC000003E, 13), "aarch64": (0xC00000B7, 134)}  # AUDIT_ARCH_… and the call's number
LOAD_WORD, IF_EQUAL, RETURN = 0x20, 0x15, 0x06
# TCP_ESTABLISHED, FIN_WAIT1, CLOSE_WAIT, LAST_ACK and CLOSING in /proc/net/tcp. What is sent but not acknowledged would
# go with the container's network.
OPEN = {"01", "04", "08", "09", "0B"}
QUEUE = 4096  # as `default` has it, or nginx would call listen() again

prctl = ctypes.CDLL(None).prctl


class Instruction(ctypes.Structure):
    """The kernel's struct sock_filter; jt and jf are how many instructions to skip."""

    _fields_ = [("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint)]


class Program(ctypes.Structure):
    """The kernel's struct sock_fprog: a classic BPF program."""

    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.POINTER(Instruction))]

    def __init__(self, *instructions: tuple[int, int, int, int]) -> None:
        listed = [Instruction(*instruction) for instruction in instructions]
        super().__init__(len(listed), (Instruction * len(listed))(*listed))


def deafen() -> bool:
    """Make every later handler for TERM and INT, in this process and all that it starts, come to nothing.

    nginx takes TERM as "drop everything", and Heroku sends it to every process. It neither keeps an inherited mask nor
    an inherited SIG_IGN, so the kernel is told to answer its sigaction with success and do nothing. The caller has
    SIG_IGN set. False where the kernel refuses; gVisor does not (pkg/sentry/syscalls/linux/sys_prctl.go).
    """
    architecture, rt_sigaction = RT_SIGACTION.get(os.uname().machine, (0, 0))
    program = Program(  # over struct seccomp_data
        (LOAD_WORD, 0, 0, 4),
        (IF_EQUAL, 0, 5, architecture),
        (LOAD_WORD, 0, 0, 0),
        (IF_EQUAL, 0, 3, rt_sigaction),
        (LOAD_WORD, 0, 0, 16),  # the signal
        (IF_EQUAL, 2, 0, signal.SIGTERM),
        (IF_EQUAL, 1, 0, signal.SIGINT),
        (RETURN, 0, 0, SECCOMP_RET_ALLOW),
        (RETURN, 0, 0, SECCOMP_RET_ERRNO | 0),
    )
    zero, one, mode = ctypes.c_ulong(0), ctypes.c_ulong(1), ctypes.c_ulong(SECCOMP_MODE_FILTER)
    # Without the first, the second takes root.
    return (
        architecture != 0
        and prctl(PR_SET_NO_NEW_PRIVS, one, zero, zero, zero) == 0
        and prctl(PR_SET_SECCOMP, mode, ctypes.byref(program)) == 0
    )


def drain(listeners: list[socket.socket]) -> None:
    """Refuse new connections, and wait until nginx has accepted those that are established: a listener that closes
    resets its queue.

    From here on the kernel finds the listeners only for what arrives through a network interface that does not exist,
    and refuses the rest; handshakes that have begun are their own (net/ipv4/inet_hashtables.c, inet_lhash2_lookup).
    """
    for listener in listeners:
        with contextlib.suppress(OSError):  # before Linux 5.7 this asks for a privilege; a few may be reset there
            listener.setsockopt(socket.SOL_SOCKET, SO_BINDTOIFINDEX, 0x7FFFFFFF)
    deadline = time.monotonic() + 0.8
    time.sleep(0.1)  # for the last packet of handshakes that have begun
    while any(map(waiting, listeners)) and time.monotonic() < deadline:
        time.sleep(0.01)
    for listener in listeners:
        listener.close()


def waiting(listener: socket.socket) -> int:
    """Return how many connections are established and not accepted: tcpi_unacked of a listener's struct tcp_info."""
    return int.from_bytes(listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)[24:28], sys.byteorder)


def under_way(port: int) -> bool:
    """Return whether a connection to the port is under way: of gunicorn, which closes each once it has answered."""
    lines: list[list[str]] = []
    for path in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(FileNotFoundError), open(path) as file:
            lines += map(str.split, file)
    return any(line[1].endswith(f":{port:04X}") and line[3] in OPEN for line in lines)


def healthy(api: str) -> bool:
    """Return whether the API at this host and port can predict."""
    import http.client  # here, so that only who needs it waits for it

    connection = http.client.HTTPConnection(api, timeout=1)
    try:
        connection.request("GET", "/api/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def say(text: str) -> None:
    print(f"cadastro-produto: {text}", file=sys.stderr, flush=True)


def bind(port: int) -> list[socket.socket]:
    """Take the port on IPv4 and, where the kernel has it, IPv6; nobody is let in before listen()."""
    listeners = [socket.socket(socket.AF_INET)]
    if os.path.exists("/proc/net/if_inet6"):
        listeners.append(socket.socket(socket.AF_INET6))
        listeners[1].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    for listener in listeners:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setblocking(False)  # as nginx takes for granted
        listener.bind(("", port))
    return listeners


def start(*command: str) -> int:
    """Start a program that neither TERM nor INT reaches, in a process group with all that it starts; return its pid."""
    parent = os.getpid()
    if pid := os.fork():
        return pid
    try:
        os.setsid()  # so that a terminal's Ctrl-C does not reach it either
        # Where this process is killed nothing stays behind; as process 1 of a container it takes all with it anyway.
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)  # a shell ignores it for what it starts in the background
        prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGQUIT))
        if os.getppid() != parent:  # it was killed before that
            os._exit(127)
        blocked = STOP  # which is enough for gunicorn
        if command[0] == "nginx":
            blocked = {*STOP, signal.SIGQUIT}  # until it waits for signals: it would forget one that comes before
            for each in STOP:
                signal.signal(each, signal.SIG_IGN)
            if not deafen():
                say("the kernel refuses a seccomp filter: a TERM to every process loses requests")
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        os.execvp(command[0], command)
    except OSError as error:
        say(f"cannot start {command[0]}: {error.strerror}")
    finally:
        os._exit(127)


class Supervisor:
    """What this process has started, and what became of it."""

    def __init__(self) -> None:
        self.programs: dict[int, str] = {}  # by pid
        self.ended: dict[int, int] = {}  # exit statuses by pid

    def start(self, *command: str) -> int:
        pid = start(*command)
        self.programs[pid] = command[0]
        return pid

    def await_signal(self, seconds: float) -> bool:
        """Wait for a signal, so long at most; note which children have ended; return whether it tells to stop."""
        told = signal.sigtimedwait({*STOP, signal.SIGCHLD}, seconds)
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:  # as process 1, other processes' orphans too
                status = os.waitstatus_to_exitcode(ended[1])
                self.ended[ended[0]] = status if status >= 0 else 128 - status  # as a shell puts a signal
        return told is not None and told.si_signo in STOP

    def watch(self, seconds: float) -> int | None:
        """Wait for a signal, so long at most; return the exit status where it is time to end, else None."""
        if self.await_signal(seconds):
            return 0
        for pid in self.programs.keys() & self.ended.keys():
            say(f"{self.programs[pid]} ended by itself, with status {self.ended[pid]}")
            return 1
        return None

    def await_end(self, pid: int, deadline: float) -> None:
        while pid not in self.ended and time.monotonic() < deadline:
            self.await_signal(0.05)

    def serve(self, role: str, port: int, run: str) -> int:
        """Run what the role names until told to stop, or until one dies; return the exit status."""
        try:
            listeners = bind(port)
        except OSError as error:
            say(f"cannot listen on port {port}: {error.strerror}")
            return 64

        os.environ |= {"TMPDIR": run, "READY_FILE": f"{run}/ready"}
        binds = [f"unix:{run}/app.sock", f"unix:{run}/health.sock"]
        if role == "api":
            for listener in listeners:
                listener.set_inheritable(True)
            binds = [f"fd://{listener.fileno()}" for listener in listeners]  # it listens when it can predict
            os.environ["STANDALONE"] = "yes"
        if role != "web":
            self.start("gunicorn", *(f"--bind={each}" for each in binds))
            while not os.path.exists(f"{run}/ready"):
                if (status := self.watch(0.02)) is not None:
                    return status
        if role == "api":
            say(f"http://localhost:{port}/api/")
            return self.serve_api(port, listeners)
        if role == "web":
            deadline = time.monotonic() + 60  # then the page at least
            while not healthy(os.environ["API"]) and time.monotonic() < deadline:
                if (status := self.watch(0.2)) is not None:
                    return status

        for listener in listeners:
            listener.listen(QUEUE)
            listener.set_inheritable(True)
        # How nginx hands its listeners to its own next version: src/core/nginx.c, ngx_add_inherited_sockets.
        os.environ["NGINX"] = "".join(f"{listener.fileno()};" for listener in listeners)
        # Else root's worker is nobody, who may not read a checkout.
        as_root = ["-g", "user root;"] if os.getuid() == 0 else []
        nginx = self.start("nginx", "-e", "/dev/null", "-c", f"{run}/nginx.conf", *as_root)
        say(f"http://localhost:{port}/cadastro.html")
        while (status := self.watch(3600)) is None:
            continue
        if status == 0:
            deadline = time.monotonic() + 3.5
            with contextlib.suppress(OSError):  # a full disk
                # /api/health says 503 from here on, while there is somebody to say it.
                open(f"{run}/stopping", "w").close()
            time.sleep(0.2)
            drain(listeners)
            # It ends once it has answered every request that it read; gunicorn then has nothing to lose.
            if nginx not in self.ended:
                os.kill(nginx, signal.SIGQUIT)
            self.await_end(nginx, deadline)
        return status

    def serve_api(self, port: int, listeners: list[socket.socket]) -> int:
        """Wait until told to stop, or until gunicorn dies; return its status, all that was accepted being answered."""
        while (status := self.watch(3600)) is None:
            continue
        if status == 0:
            deadline = time.monotonic() + 3.5
            drain(listeners)
            while under_way(port) and time.monotonic() < deadline:
                time.sleep(0.01)
        return status

    def finish(self, log: int | None) -> None:
        """End what still runs, with its workers, which outlive a program that was killed."""
        for pid in self.programs:
            with contextlib.suppress(ProcessLookupError):  # for a moment after its fork it has no group yet
                os.killpg(pid, signal.SIGKILL)
            if pid not in self.ended:
                os.kill(pid, signal.SIGKILL)
                self.await_end(pid, math.inf)
        if log is not None:
            os.close(1)  # by which it ends
            self.await_end(log, time.monotonic() + 0.4)


def main(role: str, port: int, run: str, log: int | None = None) -> int:
    signal.pthread_sigmask(signal.SIG_BLOCK, {*STOP, signal.SIGCHLD})
    supervisor = Supervisor()
    try:
        return supervisor.serve(role, port, run)
    finally:
        supervisor.finish(log)
        from shutil import rmtree  # here, so that its 0.3 MB are not held all the while

        rmtree(run, ignore_errors=True)  # a worker that is being killed may write yet


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), sys.argv[3], *map(int, sys.argv[4:])))
