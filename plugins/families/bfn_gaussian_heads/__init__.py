r"""Heads of the Gaussian family whose output is a distribution instead of a point (plugin).

At each site the network returns C normal components.  With a scale s(t) and the estimate :math:`\hat x(r)` of a point
head (:class:`bfn_gaussian.SkipHead`, :class:`bfn_gaussian.NoiseHead`) from a raw number r,

.. math:: \mu_c = \hat x(r_c), \qquad \sigma_c = s(t) \, e^{\ell_c}, \qquad w = \mathrm{softmax}(q),

where the raw numbers are :math:`(q, r, \ell)`, without the weights if C = 1.

* :class:`MixtureHead`: continuous data with the density :math:`\sum_c w_c N(x; \mu_c, \sigma_c^2)`; the receiver is
  :math:`\sum_c w_c N(y; \mu_c, \sigma_c^2 + 1 / \alpha)`.
* :class:`DiscretisedHead` and :class:`DiscretisedMixtureHead`: data in K equal bins of [-1, 1]; with the distribution
  function F of the components, and :math:`k_c` the centre of bin k with edges :math:`k_l, k_r`,

  .. math:: p_O(k) = F(k_r) - F(k_l), \qquad p_R(y) = \sum_k p_O(k) N(y; k_c, 1 / \alpha),

  where the first and the last bin extend to infinity (``form="clipped"``), or p_O is conditioned on [-1, 1]
  (``form="renormalised"``).

The continuous-time loss sees only the mean of the output.  For bins it trains mean and scale, because both change that
mean.  For a mixture it trains neither scales nor weights separately, so use the discrete-time loss.

Source: Graves et al. 2023 (arXiv 2308.07037), section 5: eq. 105, 106 (components), 107 to 109 (bins), 113 (receiver).
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Literal

import attrs
import torch
from attrs import field
from torch import Tensor

from bfn_gaussian import Gaussian, GaussianParams, Head, NoiseHead, PointHead, SkipHead
from bfn_toolkit import Binned, Entry, Output, SiteNormalMixture, check_values, expand, hookimpl, validators

REACH = 10.0  # largest magnitude of a raw log-scale, so that neither a scale nor its reciprocal overflows


_is_point_head = validators.instance_of(PointHead)


@attrs.frozen
class ComponentsHead(Head):
    """Head whose raw numbers are normal components at each site.

    Arguments:
        point: Head that turns a raw number into a mean: ``SkipHead``, bounded at both ends of time, or ``NoiseHead``,
            as published (here without clipping).
    """

    point: PointHead = field(factory=SkipHead, validator=_is_point_head, kw_only=True)

    @property
    @abc.abstractmethod
    def count(self) -> int:
        """Number of components C."""

    @property
    def data_variance(self) -> float:
        """Data variance of the point head."""
        return self.point.data_variance

    @property
    def raw_per_site(self) -> int:
        """Weight, mean and log-scale of each component; a single one needs no weight."""
        return 3 * self.count if self.count > 1 else 2

    def features(self, family: Gaussian, params: GaussianParams) -> Tensor:
        """Features of the point head."""
        return self.point.features(family, params)

    def loss_weight(self, family: Gaussian, t: Tensor) -> Tensor:
        """Loss weight of the point head."""
        return self.point.loss_weight(family, t)

    def normals(self, family: Gaussian, raw: Tensor, params: GaussianParams) -> SiteNormalMixture:
        """The components."""
        *logits, centres, log_scales = raw.chunk(self.raw_per_site // self.count, -1)
        means, unit = self.point.estimates(family, centres, params)
        unit = unit if isinstance(unit, float) else expand(unit, means)
        scales = log_scales.clamp(-REACH, REACH).exp() * unit
        return SiteNormalMixture(logits[0] if logits else torch.zeros_like(means), means, scales)


@attrs.frozen
class MixtureHead(ComponentsHead):
    """Mixture of normal distributions at each site.

    Arguments:
        components: Number of components C.
        point: Head that turns a raw number into a mean.
    """

    components: int = field(default=8, validator=validators.integer(ge=1))

    @property
    def count(self) -> int:  # noqa: D102
        return self.components

    def output(self, family: Gaussian, raw: Tensor, params: GaussianParams) -> Output:
        """The components."""
        return self.normals(family, raw, params)


@attrs.frozen
class BinsHead(ComponentsHead):
    """Head for data in equal bins of [-1, 1].

    Arguments:
        bins: Number of bins K, at most 2**24.
        form: "clipped" extends the outermost bins to infinity; "renormalised" conditions on [-1, 1], with time and
            memory that grow with K.
        point: Head that turns a raw number into a mean.  Bins bound the mean of the output under any head, so the
            default is the published one: on 16-bin digits its likelihood bound was 1 to 4 % below that of
            ``SkipHead``.
    """

    point: PointHead = field(factory=NoiseHead, validator=_is_point_head, kw_only=True)
    bins: int = field(default=256, validator=validators.integer(ge=2, le=2**24))  # exact in float32
    form: Literal["clipped", "renormalised"] = field(
        default="clipped", validator=validators.one_of("clipped", "renormalised")
    )

    def output(self, family: Gaussian, raw: Tensor, params: GaussianParams) -> Output:
        """Distribution of the bin into which a draw of the components falls."""
        binned = Binned(self.normals(family, raw, params), self.bins)
        return binned if self.form == "clipped" else binned.truncated

    @property
    def bound(self) -> float:
        """1, the end of the bins."""
        return 1.0

    def check_data(self, family: Gaussian, x: Tensor) -> None:
        """Checks that the data are in [-1, 1], up to rounding."""
        cure = "; scale bytes by x / 127.5 - 1, and numbers of --dataset array by --dataset.scale range"
        check_values(self, x, x.abs() > 1.0 + 1e-6, "data in [-1, 1]", cure)


@attrs.frozen
class DiscretisedHead(BinsHead):
    """Normal distribution over the bins, at each site."""

    @property
    def count(self) -> int:  # noqa: D102
        return 1


@attrs.frozen
class DiscretisedMixtureHead(BinsHead):
    """Mixture of normal distributions over the bins, at each site.

    Arguments:
        components: Number of components C.
    """

    components: int = field(default=8, validator=validators.integer(ge=1), kw_only=True)

    @property
    def count(self) -> int:  # noqa: D102
        return self.components


@hookimpl
def bfn_heads() -> Sequence[Entry]:
    """The heads."""
    return [
        Entry("normal-mixture", MixtureHead, (MixtureHead(components=3), MixtureHead(components=1))),
        Entry(
            "discretised",
            DiscretisedHead,
            (DiscretisedHead(bins=8), DiscretisedHead(bins=5, form="renormalised", point=SkipHead())),
        ),
        Entry("discretised-mixture", DiscretisedMixtureHead, (DiscretisedMixtureHead(bins=8, components=2),)),
    ]
