"""The figures of https://proger.github.io/posts/bfn/normal.html, with the post's recipe and with the default one.

    python examples/blog_post.py --out blog_post_figures

Both learn four narrow Gaussians on a line.  The post trains noise prediction with an unsquared norm for 200 steps; the
default recipe trains a residual of unit scale for 400 steps.  The first three figures do not depend on the recipe.
"""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure

from bfn_toolkit import AncestralSampler, Experiment, NetworkBuilder, NetworkIO, Run, seeded, train, w1
from bfn_toolkit.reports.figures import (
    data_figure,
    flows_figure,
    samples_figure,
    schedule_figure,
    training_figure,
)

RECIPES = ("post", "default")
SAMPLES, SAMPLE_STEPS = 1000, (10, 100)


def learn(recipe: str, seed: int, steps: int | None) -> Run:
    """Trains in memory with a recipe, the name of a preset."""
    overrides = [("seed", str(seed))]
    if steps is not None:
        overrides.append(("training.steps", str(steps)))
    return train(Experiment.from_mapping({}, preset=recipe, overrides=overrides, base="default"))


def smoke_figure(network: NetworkBuilder, steps: int = 60) -> Figure:
    """Fit of sin(30u) cos(20u) at t = 0 in a few steps of Adam: can the network represent wiggles at all?"""
    u = torch.linspace(-1.0, 1.0, 1000).reshape(-1, 1, 1)
    target, t = torch.sin(30.0 * u) * torch.cos(20.0 * u), torch.zeros(1000)
    with seeded(0, "smoke test"):
        module = network.build(NetworkIO((1,)))
        optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
        for _ in range(steps):
            loss = (module(u, t) - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    figure = Figure(figsize=(7.0, 3.2), dpi=150, layout="constrained")
    axis = figure.add_subplot()
    axis.plot(u.flatten().tolist(), target.flatten().tolist(), color="grey", lw=1, label="sin(30u) cos(20u)")
    axis.plot(u.flatten().tolist(), module(u, t).detach().flatten().tolist(), lw=1, label=f"after {steps} steps")
    axis.set(xlabel="u", title=f"network smoke test: mean squared error {loss.item():.4f}")
    axis.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def recipe_figures(recipe: str, run: Run, seed: int) -> dict[str, Figure]:
    """Figures of training, of samples at each number of steps, and of flows."""
    data = run.experiment.dataset.split("all").x
    figures = {f"4_training_{recipe}": training_figure(run.metrics)}
    for n_steps in SAMPLE_STEPS:
        with seeded(seed, "samples"):
            samples = run.model.sample(SAMPLES, n_steps=n_steps, sampler=AncestralSampler())
        shares = ", ".join(f"{share:.3f}" for share in run.experiment.dataset.mode_shares(samples).values())
        print(f"{recipe:8} {n_steps:4} steps: W1 {w1(samples, data):.3f}, shares of the modes {shares}")
        figures[f"5_samples_{recipe}_{n_steps}_steps"] = samples_figure(run.model.family, samples, data, n_steps)
    with seeded(seed, "flows"):
        figures[f"6_flows_{recipe}"] = flows_figure(run.model, n_steps=SAMPLE_STEPS[-1])
    return figures


def main() -> None:
    """Trains both recipes and writes every figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("blog_post_figures"), help="folder for the figures")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, training and samples")
    parser.add_argument("--steps", type=int, help="training steps of both recipes (default: each recipe's own)")
    options = parser.parse_args()

    runs = {recipe: learn(recipe, options.seed, options.steps) for recipe in RECIPES}
    experiment = runs["post"].experiment
    figures = {
        "1_data": data_figure(experiment.family, experiment.dataset.split("all").x),
        "2_smoke_test": smoke_figure(experiment.network),
        "3_schedule": schedule_figure(experiment.family),
    }
    for recipe, run in runs.items():
        figures |= recipe_figures(recipe, run, options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(options.out / f"{name}.png")
        print(options.out / f"{name}.png")


if __name__ == "__main__":
    main()
