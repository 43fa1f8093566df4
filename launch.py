"""Starts gunicorn and nginx so that a stop loses nothing: deaf to TERM and INT, on a port that closes in two steps.

launch.py gunicorn …    becomes gunicorn
launch.py PORT nginx …  listens on PORT, runs nginx on it, and at a QUIT lets nobody in any more, then ends nginx
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
import time

PR_SET_PDEATHSIG, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, PR_SET_NO_NEW_PRIVS = 1, 22, 2, 38
SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO = 0x7FFF0000, 0x00050000
SO_ATTACH_FILTER = 26
RT_SIGACTION = {"x86_64": (0xC000003E, 13), "aarch64": (0xC00000B7, 134)}  # AUDIT_ARCH_… and the call's number
prctl = ctypes.CDLL(None).prctl
LOAD_WORD, LOAD_BYTE, AND, IF_EQUAL, RETURN = 0x20, 0x30, 0x54, 0x15, 0x06
QUEUE = 511  # nginx's own, or it would call listen() again


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

    nginx takes TERM as "drop everything" and gunicorn drops its queue, and Heroku sends it to both. They install their
    handlers over an inherited SIG_IGN, so the kernel is told to answer that call with success and do nothing. The
    caller has SIG_IGN set. False where the kernel refuses; gVisor does not (pkg/sentry/syscalls/linux/sys_prctl.go).
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
    resets its queue. From here on a SYN is dropped, and its client is refused when it tries again.
    """
    no_syn = Program(  # over the TCP header
        (LOAD_BYTE, 0, 0, 13),  # the flags
        (AND, 0, 0, 0x12),
        (IF_EQUAL, 0, 1, 0x02),  # SYN without ACK
        (RETURN, 0, 0, 0),
        (RETURN, 0, 0, 0xFFFFFFFF),
    )
    for listener in listeners:
        with contextlib.suppress(OSError):  # where the kernel has no such filter a few may be reset
            listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, bytes(no_syn))
    deadline = time.monotonic() + 0.5
    signal.sigtimedwait({signal.SIGCHLD}, 0.1)  # for the last packet of handshakes that have begun
    while any(map(waiting, listeners)) and time.monotonic() < deadline:
        signal.sigtimedwait({signal.SIGCHLD}, 0.01)


def waiting(listener: socket.socket) -> int:
    """Return how many connections are established and not accepted: tcpi_unacked of a listener's struct tcp_info."""
    return int.from_bytes(listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)[24:28], sys.byteorder)


def run_nginx(port: int, command: list[str]) -> int:
    """Run nginx on the port until it ends, or until it has been drained at a QUIT; return its exit status."""
    listeners = [socket.create_server(("", port), backlog=QUEUE)]
    if os.path.exists("/proc/net/if_inet6"):
        listeners.append(socket.create_server(("::", port), family=socket.AF_INET6, backlog=QUEUE))
    for listener in listeners:
        listener.set_inheritable(True)
        listener.setblocking(False)  # as nginx takes for granted
    # How nginx hands its listeners to its own next version: src/core/nginx.c, ngx_add_inherited_sockets.
    os.environ["NGINX"] = "".join(f"{listener.fileno()};" for listener in listeners)
    # nginx inherits the mask, waits with its own, and so gets a QUIT that comes before it has handlers.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGQUIT, signal.SIGCHLD})
    nginx = os.posix_spawnp(command[0], command, os.environ)
    if signal.sigwait({signal.SIGQUIT, signal.SIGCHLD}) == signal.SIGQUIT:
        drain(listeners)
        for listener in listeners:
            listener.close()
        os.kill(nginx, signal.SIGQUIT)
    status = os.waitstatus_to_exitcode(os.waitpid(nginx, 0)[1])
    return status if status >= 0 else 128 - status  # as a shell puts the signal that ended it


if __name__ == "__main__":
    # Where entrypoint.sh is killed nothing stays behind. Kept through exec but not through fork: nginx is ended below,
    # gunicorn ends its workers. In a container the kernel sees to it, since entrypoint.sh is process 1.
    prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGQUIT))
    deaf = deafen()
    if not sys.argv[1].isdecimal():
        os.execvp(sys.argv[1], sys.argv[1:])
    if not deaf:
        print("cadastro-produto: the kernel refuses a seccomp filter: a TERM to every process loses", file=sys.stderr)
    sys.exit(run_nginx(int(sys.argv[1]), sys.argv[2:]))
