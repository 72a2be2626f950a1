"""Conditional flow matching by torchcfm, with the network, the rows and the optimiser of ours; run in its environment.

The path is x_t = (1 - t) x_0 + t x_1 from noise x_0 to data x_1, and the network learns x_1 - x_0.  The loss is summed
over pixels, and its gradient clipped, as ours is: with the mean, as in the examples of torchcfm, the error on held-out
images was a tenth higher after a short training.  torchcfm draws times uniformly.  Times that are logit-normal (Esser
et al. 2024, arXiv 2403.03206), or pairs of noise and data by optimal transport in a batch, are what its users try next.
"""

from __future__ import annotations

import argparse
import json
import math

import torch
from torch import Tensor, nn
from torchcfm.conditional_flow_matching import (  # type: ignore[import-not-found]
    ConditionalFlowMatcher,
    ExactOptimalTransportConditionalFlowMatcher,
)

from bfn_toolkit import NetworkIO, seeded
from bfn_toolkit.data.loader import batches
from bfn_toolkit.training.optimizers import MovingAverage, clip_gradients, make_optimizer, make_scheduler

from .. import images
from ..common import cpu_time

MATCHERS = {"independent": ConditionalFlowMatcher, "optimal transport": ExactOptimalTransportConditionalFlowMatcher}


def logit_normal(n: int) -> Tensor:
    """Times whose logit is standard normal, which cover the interval evenly, as ours do."""
    u = (torch.randperm(n) + torch.rand(1)) / n
    return torch.special.ndtri(u.clamp(1e-6, 1.0 - 1e-6)).sigmoid()


def trained(
    steps: int, width: int, seed: int, times: str, pairs: str, **recipe: float
) -> tuple[nn.Module, dict[str, float]]:
    """The averaged network, and the cost."""
    experiment = images.experiment("bins", steps=steps, width=width, seed=seed, **recipe)
    training, rows = experiment.training, experiment.dataset.rows("train")
    matcher, cost = MATCHERS[pairs](sigma=0.0), {"steps": float(steps)}
    with cpu_time(cost, "seconds"):
        with seeded(seed, "weights"):
            network = experiment.network.build(NetworkIO((28, 28), axes=images.AXES))
        parameters = list(network.parameters())
        optimizer = make_optimizer(training, network)
        schedule = make_scheduler(training, optimizer)
        average = MovingAverage(network, training.ema_decay)
        assert schedule is not None
        for step, batch in zip(range(steps), batches(rows, training.batch_size, seed=seed), strict=False):
            x, labels = experiment.dataset.prepare(batch).x, batch.condition["label"]
            with seeded(seed, step):
                t = logit_normal(len(x)) if times == "logit-normal" else None  # torchcfm draws uniform ones
                noise = torch.randn_like(x)
                if pairs == "independent":
                    t, moved, velocity = matcher.sample_location_and_conditional_flow(noise, x, t=t)
                else:
                    t, moved, velocity, _, labels = matcher.guided_sample_location_and_conditional_flow(
                        noise, x, y1=labels, t=t
                    )
                found = network(moved.unsqueeze(-1), t, label=labels).squeeze(-1)
                loss = (found - velocity).square().flatten(1).sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
            clip_gradients(parameters, training.clip_norm)
            optimizer.step()
            schedule.step()
            average.update()
    return average.module.eval(), cost


@torch.inference_mode()
def drawn(network: nn.Module, n: int, evaluations: int, method: str) -> Tensor:
    """Samples of all labels, in turn.

    Euler's method and the midpoint rule solve the differential equation of the flow.  "stochastic" is the solver of the
    stochastic one with the same marginal distributions: with the estimate D = x + (1 - t) v of the data, extrapolated
    from two evaluations to the middle of a step in lambda = ln(t / (1 - t)), a step from s to t is

        x_t = (1 - t) / (1 - s) e^-h x_s + t (1 - e^-2h) D + (1 - t) sqrt(1 - e^-2h) z,    h = lambda_t - lambda_s

    (SDE-DPM-Solver++(2M), Lu et al. 2022, arXiv 2211.01095), the counterpart of our default sampler.
    """

    def velocity(x: Tensor, t: float) -> Tensor:
        pieces = zip(x.split(256), images.asked(n).split(256), strict=True)
        return torch.cat([network(p.unsqueeze(-1), torch.full((len(p),), t), label=q).squeeze(-1) for p, q in pieces])

    def level(t: float) -> float:
        return math.inf if t == 1.0 else -math.inf if t == 0.0 else math.log(t / (1.0 - t))

    steps = evaluations // 2 if method == "midpoint" else evaluations
    before, last = torch.empty(0), math.inf  # estimate of the data and h, one step before
    with seeded(0, "samples"):
        x = torch.randn(n, 28, 28)
        for i in range(steps):
            s, t, width = i / steps, (i + 1) / steps, 1.0 / steps
            if method == "Euler":
                x = x + width * velocity(x, s)
            elif method == "midpoint":
                x = x + width * velocity(x + 0.5 * width * velocity(x, s), s + 0.5 * width)
            else:
                estimate, h = x + (1.0 - s) * velocity(x, s), level(t) - level(s)
                mean = estimate
                if math.isfinite(h) and math.isfinite(last):
                    mean = estimate + 0.5 * h / last * (estimate - before)
                kept = math.exp(-h)
                x = (1.0 - t) / (1.0 - s) * kept * x + t * (1.0 - kept**2) * mean
                x = x + (1.0 - t) * math.sqrt(1.0 - kept**2) * torch.randn_like(x)
                before, last = estimate, h
    return x


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("steps", "width", "seed", "samples"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--times", choices=("uniform", "logit-normal"), default="uniform")
    parser.add_argument("--pairs", choices=tuple(MATCHERS), default="independent")
    parser.add_argument("--recipe", type=json.loads, default={}, help="options of the training, in JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    network, cost = trained(options.steps, options.width, options.seed, options.times, options.pairs, **options.recipe)
    found: dict[str, object] = {"cost": cost}
    for method, evaluations in (("Euler", 20), ("midpoint", 20), ("stochastic", 20), ("Euler", 50), ("stochastic", 50)):
        x = drawn(network, options.samples, evaluations, method)
        found[f"{method} {evaluations}"] = images.scores(x, images.asked(options.samples), "bins")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
