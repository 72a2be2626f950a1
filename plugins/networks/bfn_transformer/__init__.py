"""Transformers (plugin): one for data of any form, and the network of the paper for text.

* :class:`Transformer`: tokens from :meth:`~bfn_toolkit.NetworkIO.tokens`, with the time in every layer.
* :class:`GPT`: the published network for text8, to the parameter.
"""

from __future__ import annotations

from collections.abc import Sequence

from bfn_toolkit import Entry, hookimpl
from bfn_transformer.gpt import GPT, GPTModule
from bfn_transformer.transformer import Transformer, TransformerModule

__all__ = ["GPT", "GPTModule", "Transformer", "TransformerModule"]


@hookimpl
def bfn_networks() -> Sequence[Entry]:
    """The networks."""
    small = Transformer(width=16, depth=1, heads=2)
    options = Transformer(
        width=8,
        depth=2,
        heads=1,
        positions="learned",
        neighbours=1,
        labels=3,
        condition_shapes={"vector": (2,), "words": (3, 4)},
        dropout=0.1,
        gradient_checkpointing=True,
    )
    return [
        Entry("transformer", Transformer, (small, options, Transformer(width=8, depth=1, heads=2, time_free=True))),
        Entry("gpt", GPT, (GPT(width=12, depth=1, heads=2),)),
    ]
