"""Conditional flow matching by torchcfm, with the network, the rows and the optimiser of ours; run in its environment.

The path is x_t = (1 - t) x_0 + t x_1 from noise x_0 to data x_1, and the network learns x_1 - x_0.
"""

from __future__ import annotations

import argparse
import json

import torch
from torch import Tensor, nn
from torchcfm.conditional_flow_matching import ConditionalFlowMatcher  # type: ignore[import-not-found]

from bfn_toolkit import NetworkIO, seeded
from bfn_toolkit.data.loader import batches
from bfn_toolkit.training.optimizers import MovingAverage, clip_gradients, make_optimizer, make_scheduler

from .. import images
from ..common import cpu_time


def trained(steps: int, width: int, seed: int, **recipe: float) -> tuple[nn.Module, dict[str, float]]:
    """The averaged network, and the cost."""
    experiment = images.experiment("bins", steps=steps, width=width, seed=seed, **recipe)
    training, rows = experiment.training, experiment.dataset.rows("train")
    matcher, cost = ConditionalFlowMatcher(sigma=0.0), {"steps": float(steps)}
    with cpu_time(cost, "seconds"):
        with seeded(seed, "weights"):
            network = experiment.network.build(NetworkIO((28, 28), axes=images.AXES))
        parameters = list(network.parameters())
        optimizer = make_optimizer(training, network)
        schedule = make_scheduler(training, optimizer)
        average = MovingAverage(network, training.ema_decay)
        assert schedule is not None
        for step, batch in zip(range(steps), batches(rows, training.batch_size, seed=seed), strict=False):
            x = experiment.dataset.prepare(batch).x
            with seeded(seed, step):
                t, moved, velocity = matcher.sample_location_and_conditional_flow(torch.randn_like(x), x)
                found = network(moved.unsqueeze(-1), t, label=batch.condition["label"]).squeeze(-1)
                loss = (found - velocity).square().flatten(1).sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
            clip_gradients(parameters, training.clip_norm)
            optimizer.step()
            schedule.step()
            average.update()
    return average.module.eval(), cost


@torch.inference_mode()
def drawn(network: nn.Module, n: int, evaluations: int, midpoint: bool) -> Tensor:
    """Samples of all labels, in turn, by Euler's method or the midpoint rule."""
    with seeded(0, "samples"):
        x = torch.randn(n, 28, 28)

    def velocity(x: Tensor, t: float) -> Tensor:
        pieces = zip(x.split(256), images.asked(n).split(256), strict=True)
        return torch.cat([network(p.unsqueeze(-1), torch.full((len(p),), t), label=q).squeeze(-1) for p, q in pieces])

    steps = evaluations // 2 if midpoint else evaluations
    for i in range(steps):
        t, h = i / steps, 1.0 / steps
        x = x + h * (velocity(x + 0.5 * h * velocity(x, t), t + 0.5 * h) if midpoint else velocity(x, t))
    return x


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("steps", "width", "seed", "samples"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--recipe", type=json.loads, default={}, help="options of the training, in JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    network, cost = trained(options.steps, options.width, options.seed, **options.recipe)
    found: dict[str, object] = {"cost": cost}
    for evaluations in (20, 50):
        for midpoint in (False, True):
            x = drawn(network, options.samples, evaluations, midpoint)
            name = f"{'midpoint' if midpoint else 'Euler'} {evaluations}"
            found[name] = images.scores(x, images.asked(options.samples), "bins")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
