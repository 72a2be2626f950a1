"""The autoregressive transformer: the blocks of ours with a causal mask, with the batch and optimiser of a preset."""

from __future__ import annotations

import time
from collections.abc import Callable

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bfn_categorical import Categorical
from bfn_toolkit import seeded
from bfn_toolkit.config.experiment import Experiment, Training
from bfn_toolkit.training.optimizers import MovingAverage, clip_gradients, make_optimizer, make_scheduler
from bfn_transformer.transformer import Block, Transformer, rotary_angles

Rows = Callable[[int, torch.Generator], Tensor]  # a number of random training rows, (B, L)


class Autoregressive(nn.Module):
    """Each character from those before it; where one class ends a row, what is behind it does not count.

    The embedding of a place reads as many characters as that of the flow, all of them before it.

    Arguments:
        config: The transformer whose blocks it has.
        classes: Number of characters, that of the end among them.
        length: Most characters of a row.
        end: The class that ends a row; None if all rows have the same length.
    """

    mask: Tensor
    angles: Tensor

    def __init__(self, config: Transformer, classes: int, length: int, end: int | None = None) -> None:
        super().__init__()
        width = config.width
        self.classes, self.length, self.end, self.reach = classes, length, end, 2 * config.neighbours + 1
        self.stem = nn.Linear(self.reach * classes, width)
        self.c = nn.Parameter(torch.randn(width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)
        io = Categorical(site_shape=(length,), classes=classes, axes=("sequence",)).network_io
        self.register_buffer("mask", torch.ones(length, length, dtype=torch.bool).tril()[None, None])
        self.register_buffer("angles", rotary_angles(config.tokens(io), width // config.heads // 2))

    def logits(self, x: Tensor) -> Tensor:
        """Logits of each of the first characters (B, n) given those before it, and of the next one: (B, n + 1, C)."""
        n = min(x.shape[1] + 1, self.length)
        codes = F.one_hot(x, self.classes).to(self.c.dtype)
        before = [F.pad(codes, (0, 0, i, 1))[:, :n] for i in range(1, self.reach + 1)]
        h = self.stem(torch.cat(before, -1))
        for block in self.blocks:
            h = block(h, F.silu(self.c)[None, None], self.mask[..., :n, :n], self.angles[:n])
        result: Tensor = self.head(self.norm(h))
        return result

    def forward(self, x: Tensor) -> Tensor:
        """Price of each row (B, L) in nats, (B,)."""
        nats = F.cross_entropy(self.logits(x).mT, x, reduction="none")
        if self.end is not None:
            ended = (x == self.end).cumsum(1) - (x == self.end).long()  # ends before a place
            nats = torch.where(ended == 0, nats, 0.0)
        return nats.sum(1)

    @torch.inference_mode()
    def draw(self, n: int) -> Tensor:
        """Rows (n, L)."""
        x = torch.zeros(n, 0, dtype=torch.long)
        for _ in range(self.length):
            chances = self.logits(x)[:, -1].softmax(-1)
            x = torch.cat([x, torch.multinomial(chances, 1)], 1)
        return x


def fitted(
    setting: Experiment, make: Callable[[Transformer], Autoregressive], rows: Rows, seconds: float, seed: int = 0
) -> tuple[Autoregressive, dict[str, float]]:
    """The network with the width, depth, batch and optimiser of an experiment, trained for so many CPU seconds."""

    def run(options: Training) -> tuple[Autoregressive, float]:
        with seeded(seed, "autoregressive"):
            network = make(setting.network)
        generator, parameters = torch.Generator().manual_seed(seed), list(network.parameters())
        optimizer = make_optimizer(options, network)
        schedule, average = make_scheduler(options, optimizer), MovingAverage(network, options.ema_decay)
        start = time.process_time()
        for _ in range(options.steps):
            loss = network(rows(options.batch_size, generator)).mean()
            optimizer.zero_grad()
            loss.backward()
            clip_gradients(parameters, options.clip_norm)
            optimizer.step()
            if schedule is not None:
                schedule.step()
            average.update()
        module = average.module
        assert isinstance(module, Autoregressive)
        return module.eval(), time.process_time() - start

    options = setting.training
    pace = [run(attrs.evolve(options, steps=steps, warmup=1))[1] for steps in (10, 10, 40)]
    steps = max(10, round(30 * seconds / (pace[2] - pace[1])))
    network, spent = run(attrs.evolve(options, steps=steps, warmup=min(options.warmup, steps)))
    parameters = sum(p.numel() for p in network.parameters())
    return network, {"steps": steps, "seconds": round(spent, 1), "seed": seed, "parameters": parameters}
