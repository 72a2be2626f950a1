"""A limit for the memory of a command, so that too large a step ends with an error that is told.

Linux grants more memory than there is, and kills a process that uses it, without a word.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MARGIN = 0.95  # share of the free memory that a command may take
DRIVERS = ("/dev/nvidiactl", "/dev/kfd")  # of GPUs, which reserve address space that they do not use


def free_memory() -> int | None:
    """Bytes of memory and swap that are free, at most those of the process's group; None where that is unknown."""
    try:
        lines = dict(re.findall(r"(?m)^(\w+):\s*(\d+) kB", Path("/proc/meminfo").read_text()))
        free = 1024 * (int(lines["MemAvailable"]) + int(lines["SwapFree"]))
        group = re.search(r"(?m)^(?:0:|\d+:memory):(/.*)$", Path("/proc/self/cgroup").read_text())
    except (OSError, KeyError):
        return None
    places = {"", group[1] if group else ""}
    for place in places:  # in a container, the group is the root of what it sees
        for name in (f"/sys/fs/cgroup{place}/memory.max", f"/sys/fs/cgroup/memory{place}/memory.limit_in_bytes"):
            with suppress(OSError, ValueError):
                free = min(free, int(Path(name).read_text()))
    return free


@contextmanager
def limited_memory() -> Iterator[None]:
    """Scope in which an allocation beyond the free memory is an error; on Linux, and where there is no GPU."""
    free = free_memory() if sys.platform == "linux" and not any(map(os.path.exists, DRIVERS)) else None
    if free is None:
        yield
        return
    import resource

    before, most = resource.getrlimit(resource.RLIMIT_DATA)
    limit = int(MARGIN * free)
    for other in (before, most):
        limit = limit if other == resource.RLIM_INFINITY else min(limit, other)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before, most))
