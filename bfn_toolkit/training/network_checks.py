"""Checks of a network before its first step: its weights can be trained and saved, and what is saved is all of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from bfn_toolkit.bfn import BFN
from bfn_toolkit.errors import ConfigError
from bfn_toolkit.randomness import seeded
from bfn_toolkit.storage.safetensors_files import check_savable, count_nonfinite


def check_network(model: BFN, build_another: Callable[[], nn.Module]) -> None:
    """Checks the network of a model that is not trained yet.

    Arguments:
        model: The model.
        build_another: Builds a second network of the same configuration, with other draws.
    Raises:
        ConfigError: If its weights cannot be trained or saved, or a saved network would be another one.
    """
    _check_there(model.network)
    check_savable(model.network.state_dict())
    _check_numbers(model.network)
    _check_apart(model.network)
    unsaved = sorted(_unsaved(model.network))
    if unsaved and _depends_on_unsaved(model, build_another()):
        raise ConfigError(
            f"network: a copy with the same weights gives other numbers, because {', '.join(unsaved[:5])} "
            f"{'is' if len(unsaved) == 1 else 'are'} drawn at random and not saved; write "
            "self.register_buffer(name, tensor) for such a tensor, without persistent=False"
        )


def _check_there(network: nn.Module) -> None:
    """Refuses weights and buffers without numbers."""
    for name, value in (*network.named_parameters(), *network.named_buffers()):
        if is_lazy(value):
            check_savable({name: value})
        if value.device.type == "meta":
            raise ConfigError(f"network: {name} is on the meta device, where it has no numbers; make it on the CPU")


def _check_numbers(network: nn.Module) -> None:
    """Refuses weights that are not finite, and weights that torch cannot train."""
    for name, value in network.state_dict().items():
        if count_nonfinite(value):
            raise ConfigError(
                f"network: {name} is not finite from the start, and such numbers are not saved; for a constant, such "
                "as a mask of -inf, write self.register_buffer(name, tensor, persistent=False)"
            )
    for name, weight in network.named_parameters():
        if weight.requires_grad and weight.is_floating_point() and weight.itemsize == 1:
            raise ConfigError(
                f"network: {name} is a parameter of {weight.dtype}, which torch cannot train; keep it in bfloat16, or "
                "write requires_grad_(False)"
            )


def _check_apart(network: nn.Module) -> None:
    """Refuses parameters that share memory without being one: each would be moved by its own optimiser state."""
    spans = sorted(
        (weight.data_ptr(), weight.data_ptr() + _bytes(weight), name)
        for name, weight in network.named_parameters()
        if weight.numel()
    )
    for (_, end, one), (start, _, two) in pairwise(spans):
        if start < end:
            raise ConfigError(
                f"network: {one} and {two} are two parameters in one memory; to tie weights, write one nn.Parameter in "
                "both places: self.b.weight = self.a.weight"
            )


def _bytes(value: Tensor) -> int:
    """Bytes from the first to the last number of a tensor."""
    return (1 + sum((n - 1) * s for n, s in zip(value.shape, value.stride(), strict=True))) * value.element_size()


def _unsaved(network: nn.Module) -> Iterator[str]:
    """Names of tensors that a network holds and does not save."""
    saved = {id(value) for value in network.state_dict(keep_vars=True).values()}
    for owner, module in network.named_modules():
        for name, value in (*module.named_buffers(recurse=False), *vars(module).items()):
            if isinstance(value, Tensor) and id(value) not in saved:
                yield f"{owner}.{name}".removeprefix(".")


def _depends_on_unsaved(model: BFN, another: nn.Module) -> bool:
    """Whether a second network gives other numbers when it has the weights of the first."""
    one, training = model.network, model.network.training
    with seeded("network"):
        features, t = torch.randn(2, *model.io.site_shape, model.io.in_features), torch.rand(2)
    try:
        another.load_state_dict(one.state_dict())
        with torch.no_grad(), seeded("network"):
            a, b = one.eval()(features, t), another.eval()(features, t)
        return not torch.allclose(a, b, rtol=1e-4, atol=1e-6, equal_nan=True)
    except Exception:  # it needs a condition, or is broken, which its first step says
        return False
    finally:
        one.train(training)
