"""Jobs of two processes on this machine."""

from __future__ import annotations

import os
import pickle
import socket
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from faults.crashes import forked, start, wait_for


def free_port() -> int:
    """A port that nobody listens to."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def two_ranks(function: Callable[[int], Any], processes: int = 2) -> list[Any]:
    """What a function of the rank returns, or raises, in each of several forked processes that know each other.

    A fork needs no imports, so this is many times faster than the launcher.
    """
    port = str(free_port())
    with tempfile.TemporaryDirectory() as folder:

        def member(rank: int) -> None:
            os.environ |= {
                "OMP_NUM_THREADS": "1",
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(processes),
                "LOCAL_WORLD_SIZE": str(processes),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
            }
            torch.set_num_threads(1)
            try:
                result = function(rank)
            except Exception as error:
                result = error
            try:
                content = pickle.dumps(result)
            except Exception:
                content = pickle.dumps(RuntimeError(repr(result)))
            Path(folder, f".{rank}").write_bytes(content)
            os.replace(Path(folder, f".{rank}"), Path(folder, str(rank)))
            # Whoever ends at once cuts off a process that is still on its way out of the last barrier.
            wait_for(lambda: all(Path(folder, str(other)).exists() for other in range(processes)), 60.0)

        def job() -> None:
            children = [_fork(member, rank) for rank in range(processes)]
            for child in children:
                os.waitpid(child, 0)

        assert forked(job) == 0
        written = (Path(folder, str(rank)) for rank in range(processes))
        return [pickle.loads(path.read_bytes()) if path.exists() else None for path in written]


def _fork(member: Callable[[int], None], rank: int) -> int:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            member(rank)
            status = 0
        finally:
            os._exit(status)
    return pid


def launched(arguments: Sequence[str], site: Path, processes: int = 2, cwd: Path | None = None) -> Any:
    """Starts ``bfn train ARGUMENTS`` in several processes, by the launcher."""
    return start(["train", "--processes", str(processes), "--no-report", *arguments], site, cwd)


def listening_on(process: int) -> set[str]:
    """Addresses, as /proc has them, on which a process and its descendants listen."""
    sockets: set[str] = set()
    for pid in _tree(process):
        for handle in Path(f"/proc/{pid}/fd").iterdir():
            try:
                sockets.add(os.readlink(handle))
            except FileNotFoundError:
                continue
    lines = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    return {words[1].partition(":")[0] for words in lines if words[3] == "0A" and f"socket:[{words[9]}]" in sockets}


def _tree(process: int) -> list[int]:
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [process, *(pid for child in children for pid in _tree(int(child)))]
