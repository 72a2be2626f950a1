"""What does not vary from run to run: operations dispatched, and bytes allocated."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from torch import Tensor
from torch.autograd.profiler import profile as autograd_profile
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass
class Operations:
    """Operations that were dispatched: their names, and the largest tensor that each touched."""

    names: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def on(self, size: int) -> int:
        """How many touched a tensor of at least this many elements."""
        return sum(touched >= size for touched in self.sizes)


class _Record(TorchDispatchMode):
    def __init__(self, operations: Operations) -> None:
        super().__init__()
        self.operations = operations

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        touched = [leaf.numel() for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
        self.operations.names.append(str(func))
        self.operations.sizes.append(max(touched, default=0))
        return out


def operations(run: Callable[[], object]) -> Operations:
    """The ATen operations of one run, forward and backward, after one that fills the caches."""
    run()
    found = Operations()
    with _Record(found):
        run()
    return found


def peak_bytes(run: Callable[[], object]) -> int:
    """Largest number of bytes that torch's allocator has out during one run, above those at its start."""
    run()
    with (
        # A summary of the events, of which nothing is read here, would take most of the time.
        patch.object(autograd_profile, "_parse_kineto_results", lambda *_, **__: []),
        profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as trace,
    ):
        run()
    results = trace.profiler.kineto_results
    events = [event for event in results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(itertools.accumulate((event.nbytes() for event in events), initial=0))
