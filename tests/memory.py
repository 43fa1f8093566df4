"""How much memory a container or a server holds, in MB, as the kernel counts it."""

from __future__ import annotations

from tests.container import Container, docker

# cgroup v2, then v1
PEAK = "cat /sys/fs/cgroup/memory.peak 2>/dev/null || cat /sys/fs/cgroup/memory/memory.max_usage_in_bytes"
KILLS = "cat /sys/fs/cgroup/memory.events 2>/dev/null || cat /sys/fs/cgroup/memory/memory.oom_control"


def peak(container: Container) -> float:
    """Return the most that all in the container has held so far, files in /tmp and the kernel's buffers included."""
    return int(docker("exec", container.name, "sh", "-c", PEAK).stdout) / 2**20


def kills(container: Container) -> int:
    """Return how many processes of the container the kernel has killed for want of memory."""
    shown = docker("exec", container.name, "sh", "-c", KILLS).stdout.split()
    return int(shown[shown.index("oom_kill") + 1])
