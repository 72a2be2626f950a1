r"""Models that need no training, because the posterior of their data is known: what is left is the sampler's error.

Real data are a cloud of K centres m_k with weights pi_k, blurred by a standard deviation s (0 for a finite set).  Under
beliefs with natural parameters v and accuracy B, with c = 1 + s^2 B,

.. math::
    E[x \mid \theta] = \sum_k w_k \frac{m_k + s^2 v}{c}, \qquad
    \ln w_k = \ln \pi_k + \frac{m_k \cdot v - B \lVert m_k \rVert^2 / 2}{c} + \text{const} .

Of a Markov chain the posterior of each class is found by messages from both ends: forward a, backward b, beliefs theta,

.. math:: p(x_l \mid \theta) \propto a_l \, \theta_l \, b_l, \qquad
    a_{l+1} = P^T (a_l \theta_l), \quad b_{l-1} = P (b_l \theta_l) .
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from bfn_categorical import Categorical
from bfn_gaussian import Gaussian, GaussianParams
from bfn_markov import Markov
from bfn_mixed import RADIUS, Mixed
from bfn_toolkit import Delta, Finite, JointOutput, Oracle, ProductFamily, expand


def cloud(family: Gaussian, centres: Tensor, weights: Tensor, std: float) -> Oracle:
    """The posterior mean of centres (K, *site) with weights (K,), as the point that a perfect network would return."""
    centres, log_weights = centres.flatten(1).float(), weights.float().log()
    squares = 0.5 * centres.square().sum(1)

    def posterior(params: GaussianParams) -> Any:
        accuracy = params.precision.reshape(-1, 1) - 1.0
        v = (params.mean * expand(params.precision, params.mean)).flatten(1)
        c = 1.0 + std**2 * accuracy
        shares = (log_weights + (v @ centres.T - accuracy * squares) / c).softmax(1)
        return Delta(((shares @ centres + std**2 * v) / c).reshape(params.mean.shape), family.sigma_1)

    return Oracle(family, posterior)


def chain(family: Categorical, dataset: Markov) -> Oracle:
    """The posterior of each class of a Markov chain."""
    start, matrix = dataset.stationary.float(), dataset.matrix.float()

    def posterior(params: Any) -> Any:
        theta = params.log_probs.exp()  # (B, L, K)
        forward, backward = [start.expand(len(theta), -1)], [torch.ones_like(theta[:, 0])]
        for site in range(theta.shape[1] - 1):
            message = (forward[-1] * theta[:, site]) @ matrix
            forward.append(message / message.sum(-1, keepdim=True))
            message = (backward[-1] * theta[:, -1 - site]) @ matrix.T
            backward.append(message / message.sum(-1, keepdim=True))
        p = torch.stack(forward, 1) * theta * torch.stack(backward[::-1], 1)
        return Finite(None, p.clamp_min(1e-30).log())

    return Oracle(family, posterior)


def copies(family: Categorical, x: Tensor) -> Oracle:
    """The posterior of each class if the data are the rows x, (N, L) with equal weights."""
    codes = torch.nn.functional.one_hot(x, family.classes).flatten(1).float()

    def posterior(params: Any) -> Any:
        shares = (params.log_probs.flatten(1) @ codes.T).softmax(1)
        p = (shares @ codes).reshape(params.logits.shape)
        return Finite(None, p.clamp_min(1e-30).log())

    return Oracle(family, posterior)


def mixed(family: ProductFamily, dataset: Mixed, angles: int = 90) -> Oracle:
    """The posterior means of mixed data, by a sum over the classes and a grid of angles."""
    angle = torch.arange(angles) * (2.0 * math.pi / angles)
    kind = torch.arange(dataset.classes)
    outwards = dataset._outwards(kind).float()
    heading = torch.stack([angle.cos(), angle.sin()], -1)
    log_prior = dataset.concentration * outwards @ heading.T  # (K, A)
    centres = (RADIUS * outwards.unsqueeze(1) + dataset.step * heading).flatten(0, 1)  # (K A, 2)

    def posterior(params: Any) -> Any:
        position, variance = params["position"], dataset.noise**2
        accuracy = position.precision.unsqueeze(-1) - 1.0
        v = position.mean * position.precision.unsqueeze(-1)
        c = 1.0 + variance * accuracy
        place = (v @ centres.T - 0.5 * accuracy * centres.square().sum(1)) / c
        told = params["type"].log_probs[:, 0, :, None] + (params["angle"].v[:, 0] @ heading.T).unsqueeze(1)
        log_w = (place.unflatten(1, (dataset.classes, angles)) + told + log_prior).flatten(1).log_softmax(1)
        w = log_w.unflatten(1, (dataset.classes, angles))
        return JointOutput(
            {
                "position": Delta((log_w.exp() @ centres + variance * v) / c),
                "type": Finite(None, w.logsumexp(2).unsqueeze(1)),
                "angle": Finite(angle, w.logsumexp(1).unsqueeze(1)),
            }
        )

    return Oracle(family, posterior)
