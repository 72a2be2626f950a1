"""Variables of the environment that give a process its place in a job, as torchrun sets them.

Shells of clusters and of other programs hold some of them too, for jobs that are not ours, and options of accelerate.
So a place counts only if it is complete, and the experiment alone has the options.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_OTHERS = ("ACCELERATE_", "FSDP_", "PARALLELISM_CONFIG_", "MEGATRON_LM_", "PMI_", "OMPI_COMM_", "MV2_COMM_")


def place() -> tuple[int, int]:
    """Rank of this process and number of processes in its job: 0 and 1 if a variable is missing or makes no sense."""
    try:
        rank, size, local, _, port = (os.environ[name] for name in PLACE)
        found, others = (int(rank), int(size)), (int(local), int(port))
    except (KeyError, ValueError):
        return 0, 1
    return found if 0 <= found[0] < found[1] and min(others) >= 0 else (0, 1)


def ignored() -> str:
    """A sentence on the place in a job that is there in part; empty if there is none, or all of it."""
    missing = [name for name in PLACE if name not in os.environ]
    if place()[1] > 1 or os.environ.get("WORLD_SIZE", "1") == "1":
        return ""
    why = f"{', '.join(missing)} not set" if missing else "not the place of a process"
    return f"WORLD_SIZE={os.environ['WORLD_SIZE']} is ignored ({why}): this process works alone"


@contextmanager
def own_variables(**values: str) -> Iterator[None]:
    """Scope without the variables of other programs that accelerate would read, and with some of our own."""
    alone = place()[1] == 1
    hidden = {n: v for n, v in os.environ.items() if n.startswith(_OTHERS) or (alone and n in PLACE)}
    for name in hidden:
        del os.environ[name]
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values:
            os.environ.pop(name, None)
        os.environ.update(hidden)
