r"""The other side of the comparison: continuous, binned and discrete data as one first writes them down from the paper.

The time has the shape of the data, every distribution is an object of ``torch.distributions`` with its checks on,
:math:`\gamma = 1 - \sigma_1^{2t}` is computed as it stands, and the noise is predicted (Graves et al. 2023, algorithms
1 to 3).  Nothing here is slow on purpose.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import Categorical as Categorical_, Normal
from torch.nn.functional import one_hot
from torch.utils.data import DataLoader, TensorDataset

from bfn_categorical import Categorical


def output_prediction(network: nn.Module, mu: Tensor, t: Tensor, gamma: Tensor, t_min: float = 1e-6) -> Tensor:
    """Algorithm 1: x_hat from the noise that the network predicts."""
    noise = network(mu.unsqueeze(-1), t.flatten(1)[:, 0]).squeeze(-1)
    x_hat = mu / gamma - torch.sqrt((1 - gamma) / gamma) * noise
    return torch.where(t < t_min, torch.zeros_like(x_hat), x_hat).clamp(-1.0, 1.0)


def continuous_time_loss(network: nn.Module, x: Tensor, sigma_1: float) -> Tensor:
    """Algorithm 2: the continuous-time loss of each example."""
    t = torch.rand(x.shape[0], *(1,) * (x.ndim - 1)).expand_as(x)
    gamma = 1 - sigma_1 ** (2 * t)
    mu = Normal(gamma * x, torch.sqrt(gamma * (1 - gamma)) + 1e-12).sample()
    x_hat = output_prediction(network, mu, t, gamma)
    return (-math.log(sigma_1) * sigma_1 ** (-2 * t) * (x - x_hat) ** 2).flatten(1).sum(1)


def discretised_loss(network: nn.Module, x: Tensor, sigma_1: float, bins: int) -> Tensor:
    """Algorithm 5: the continuous-time loss of data in bins, with the distribution function at every edge."""
    t = torch.rand(x.shape[0], *(1,) * (x.ndim - 1)).expand_as(x)
    gamma = 1 - sigma_1 ** (2 * t)
    mu = Normal(gamma * x, torch.sqrt(gamma * (1 - gamma)) + 1e-12).sample()
    noise, log_scale = network(mu.unsqueeze(-1), t.flatten(1)[:, 0]).unbind(-1)
    spread = torch.sqrt((1 - gamma) / gamma)
    law = Normal((mu / gamma - spread * noise).unsqueeze(-1), (spread * log_scale.exp()).unsqueeze(-1))
    cdf = law.cdf(2 * torch.arange(bins + 1) / bins - 1)
    cdf = torch.cat([torch.zeros_like(cdf[..., :1]), cdf[..., 1:-1], torch.ones_like(cdf[..., :1])], -1)
    centres = (2 * torch.arange(bins) + 1) / bins - 1
    k_hat = (cdf.diff(dim=-1) * centres).sum(-1)
    return (-math.log(sigma_1) * sigma_1 ** (-2 * t) * (x - k_hat) ** 2).flatten(1).sum(1)


@torch.no_grad()
def sample(network: nn.Module, shape: tuple[int, ...], n_steps: int, sigma_1: float) -> Tensor:
    """Algorithm 3: ancestral sampling in n + 1 evaluations."""
    mu, rho = torch.zeros(shape), torch.ones(shape)
    for i in range(1, n_steps + 1):
        t = torch.full(shape, (i - 1) / n_steps)
        x_hat = output_prediction(network, mu, t, 1 - sigma_1 ** (2 * t))
        alpha = torch.full(shape, sigma_1 ** (-2 * i / n_steps) * (1 - sigma_1 ** (2 / n_steps)))
        y = Normal(x_hat, 1 / torch.sqrt(alpha)).sample()
        mu = (rho * mu + alpha * y) / (rho + alpha)
        rho = rho + alpha
    t = torch.ones(shape)
    return output_prediction(network, mu, t, 1 - sigma_1 ** (2 * t))


def classes_loss(network: nn.Module, x: Tensor, family: Categorical) -> Tensor:
    """Algorithm 8: the continuous-time loss of classes, with their one-hot code."""
    k, beta_1 = family.classes, family.beta_1
    t = torch.rand(x.shape[0], *(1,) * x.ndim)
    beta, code = (beta_1 * t**2).expand(*x.shape, k), one_hot(x, k).float()
    y = Normal(beta * (k * code - 1), torch.sqrt(beta * k) + 1e-12).sample()
    probs = Categorical_(logits=network(2 * y.softmax(-1) - 1, t.flatten())).probs
    return (k * beta_1 * t * (code - probs) ** 2).flatten(1).sum(1)


@torch.no_grad()
def sample_classes(network: nn.Module, family: Categorical, rows: int, n_steps: int) -> Tensor:
    """Algorithm 9: ancestral sampling of classes."""
    k, shape = family.classes, (rows, *family.site_shape)
    theta = torch.full((*shape, k), 1 / k)
    for i in range(1, n_steps + 1):
        t = torch.full((rows,), (i - 1) / n_steps)
        drawn = Categorical_(logits=network(2 * theta - 1, t)).sample()
        alpha = torch.full((*shape, k), family.beta_1 * (2 * i - 1) / n_steps**2)
        y = Normal(alpha * (k * one_hot(drawn, k) - 1), torch.sqrt(alpha * k)).sample()
        theta = (theta.log() + y).softmax(-1)
    return Categorical_(logits=network(2 * theta - 1, torch.ones(rows))).sample()


def batches(x: Tensor, batch_size: int) -> DataLoader[tuple[Tensor, ...]]:
    """Shuffled batches of rows."""
    return DataLoader(TensorDataset(x), batch_size, shuffle=True)
