r"""Muon for the hidden layers of a network, and AdamW for all else.

The momentum M of the gradients of a weight matrix becomes the nearest matrix with singular values of 1, so that a step
moves along all directions alike, where one of AdamW follows the few that the gradient is large in:

.. math:: W \leftarrow W - \eta \, 0.2 \sqrt{\max(n, m)} \; U V^\top, \qquad M = U S V^\top \in R^{n \times m} .

The factor gives the update the size of one by AdamW, so both take the same learning rate.  The first and the last
linear layer, whose rows belong to single features or classes, are left to AdamW, as are vectors, tables and
convolutions.

Source: Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon); Liu et al. 2025 (arXiv 2502.16982) for the
factor.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def hidden_matrices(network: nn.Module) -> list[nn.Parameter]:
    """Trained weights of the linear layers of a network, except the first and the last of them."""
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    weights = {layer.weight: None for layer in layers[1:-1] if isinstance(layer.weight, nn.Parameter)}  # each once
    return [weight for weight in weights if weight.requires_grad]


class Muon(torch.optim.Optimizer):
    """Torch's Muon for the hidden matrices of a network, and its AdamW for all else, as one optimiser.

    Arguments:
        network: The network.
        lr: Learning rate of both.
        betas: Decays of AdamW.
        momentum: Decay of Muon.
        weight_decay: That of both.
        ns_steps: Number of Newton-Schulz iterations that make the singular values 1.
    """

    def __init__(
        self,
        network: nn.Module,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.98),
        momentum: float = 0.95,
        weight_decay: float = 0.01,
        ns_steps: int = 5,
    ) -> None:
        matrices = hidden_matrices(network)
        known = set(matrices)
        others = [p for p in network.parameters() if p.requires_grad and p not in known]
        self._parts: list[torch.optim.Optimizer] = []
        if matrices:
            self._parts.append(
                torch.optim.Muon(
                    matrices,
                    lr=lr,
                    momentum=momentum,
                    weight_decay=weight_decay,
                    ns_steps=ns_steps,
                    adjust_lr_fn="match_rms_adamw",
                )
            )
        if others:
            self._parts.append(torch.optim.AdamW(others, lr=lr, betas=betas, weight_decay=weight_decay))
        super().__init__([group for part in self._parts for group in part.param_groups], {})

    def step(self, closure: Any = None) -> Tensor | None:  # type: ignore[override]
        """Makes a step of each part, on the groups and the state of this optimiser, which may have been loaded."""
        loss: Tensor | None = None
        for part, group in zip(self._parts, self.param_groups, strict=True):
            part.param_groups, part.state = [group], self.state
            loss = part.step(closure)
        return loss
