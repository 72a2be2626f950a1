r"""Distribution families: the beliefs about the data, and how messages sharpen them.

One round of a Bayesian flow network: a *sender* who knows the data x adds noise of accuracy alpha and sends y; the
receiver, who holds beliefs theta, updates them by Bayes' rule; the network turns the beliefs into an *output
distribution*, and the loss is what the sender's message costs given the receiver's guess.

.. math::
    y \sim p_S(y \mid x; \alpha), \qquad \theta' = h(\theta, y, \alpha), \qquad
    L = \mathrm{KL}\big(p_S(\cdot \mid x; \alpha) \,\|\, p_R(\cdot \mid \theta; t, \alpha)\big)

The law of theta' is the *Bayesian update distribution* p_U; the law of theta after all messages up to time t is the
*Bayesian flow distribution* p_F.  Which law a family claims is the base class it inherits:

* :class:`AdditiveFamily`: a message of accuracy a and one of b are worth one of a + b, so that
  :math:`p_F(\theta \mid x; t) = p_U(\theta \mid \theta_0, x; \beta(t))`: the flow is one message.
* :class:`ChannelFamily`: additive, through a Gaussian channel: natural parameters v of the beliefs, given x, are
  :math:`v \sim N(B\,\phi(x), B\,I)` for an embedding phi of the data and an additive accuracy B.
* :class:`SteppedFamily`: no such law; the flow is the fold of the schedule's messages, and the number of steps is
  part of the model.

Verbs that follow from others have their definition as the default; a family overrides one only to be faster or exact.

Source: Graves et al. 2023 (arXiv 2308.07037), section 3.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any, ClassVar, Generic, NoReturn, TypeVar

import attrs
import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.nn.functional import one_hot

from bfn_toolkit.distributions import kl, normal
from bfn_toolkit.errors import ConfigError, DataError, StepCountError
from bfn_toolkit.masks import mask_by_part, present
from bfn_toolkit.network_io import NetworkIO
from bfn_toolkit.outputs import Output
from bfn_toolkit.randomness import seeded
from bfn_toolkit.schedules import AccuracySchedule, TableSchedule
from bfn_toolkit.shapes import Data, Mask, batch_size, by_example, expand, plus, select, weighted
from bfn_toolkit.validators import not_one_of, whole_number

P = TypeVar("P")


def check_n_steps(n_steps: int) -> int:
    """Returns n_steps if it is an integer of at least 1; raises StepCountError otherwise."""
    return whole_number("n_steps", n_steps, write=100, error=StepCountError)


def check_site_shape(_: object, attribute: attrs.Attribute[Any], value: tuple[int, ...]) -> None:
    """attrs validator: checks that all sizes are integers of at least 1."""
    if not all(isinstance(size, int) and size >= 1 for size in value):
        raise ValueError(f"{attribute.name} must be integers of at least 1, got {value}")


def check_values(owner: object, x: Tensor, bad: Tensor, expected: str, advice: str = "") -> None:
    """Refuses data with bad values; for public entries only, because it reads a tensor's values.

    Arguments:
        owner: The family or head that checks; the message names its class.
        x: Data.
        bad: Mask of the bad values, with the leading axes of x.
        expected: Words for the data that are expected.
        advice: The end of the message.
    Raises:
        DataError: If any value is bad; the message shows the first one.
    """
    if bad.any():
        row = tuple(bad.nonzero()[0].tolist())
        raise DataError(
            f"{type(owner).__name__} expects {expected}, found {x[row].tolist()} at index {row} "
            f"({int(bad.sum())} in all){advice}"
        )


def check_finite(owner: object, x: Tensor, noun: str = "data") -> None:
    """Refuses data that are not floating-point numbers, or not finite.

    Raises:
        DataError: If they are not.
    """
    if not x.is_floating_point():
        name = type(owner).__name__
        raise DataError(f"{name} expects floating-point {noun}, found {x.dtype}; convert with x.float()")
    if not bool(x.sum().isfinite()):  # the sum of finite numbers may overflow, but no other sum is finite
        check_values(owner, x, ~torch.isfinite(x), f"finite {noun}")


def check_present(family: Family[Any], x: Data, mask: Mask | None) -> None:
    """Checks data by :meth:`Family.check_data`; where they are missing, they may be anything.

    Raises:
        DataError: If data that are present are outside the domain, or have another shape or dtype.
    """
    if mask is None or (family.has_parts and (not isinstance(x, Mapping) or x.keys() != family.parts.keys())):
        family.check_data(x)
        return
    with seeded("present"):  # any data of the family, in the place of what is missing
        example = family.input(family.prior(1)).sample()
    filled = {}
    for part in family.walk(x, example, mask_by_part(x, mask)):
        rows, any_row, there = part.values
        fits = there is not None and rows.shape[1:] == any_row.shape[1:]
        any_row = any_row.clamp(-1, 1).to(rows.device, rows.dtype)
        filled[part.name] = torch.where(expand(there, rows), rows, any_row) if fits else rows
    family.check_data(family.join(filled))


class ExampleKind(StrEnum):
    """Kind of one example, which decides how a figure draws it."""

    NUMBER = "number"  # one real number: a histogram
    POINTS = "points"  # several: a cloud of points
    SET = "set"  # points in the plane or in space: a picture of each set
    IMAGE = "image"  # a grid of pixels, of numbers or of classes, grey or in colour: a sheet
    CLASS = "class"  # one class: frequencies
    SEQUENCE = "sequence"  # several classes: frequencies, and texts where the codec gives them
    ROW = "row"  # a mapping of named parts, each with its own kind: part by part

    @classmethod
    def _missing_(cls, value: object) -> NoReturn:
        raise ConfigError(not_one_of(value, cls))


@attrs.frozen(eq=False)
class Part:
    """One part of the data, with its family and its share of some values.

    Arguments:
        name: Name of the part; "" for the only part of a family that is not a product.
        family: The family of the part.
        values: The part's share of each value that :meth:`Family.walk` was called with, in that order.
    """

    name: str
    family: Family[Any]
    values: tuple[Any, ...] = ()

    @property
    def prefix(self) -> str:
        """Prefix of the names of this part's arrays: its name and a dot, or "" without a name."""
        return f"{self.name}." if self.name else ""

    def as_channel(self) -> ChannelFamily[Any]:
        """The family as a Gaussian channel (:meth:`Family.as_channel`).

        Raises:
            ConfigError: If it is not a channel; the message names the part.
        """
        try:
            return self.family.as_channel()
        except ConfigError as error:
            raise ConfigError(f"part '{self.name}': {error}" if self.name else str(error)) from None


class Family(abc.ABC, Generic[P]):
    r"""Beliefs P about data of shape ``site_shape``, and everything the engine does with them.

    Concrete families are frozen attrs classes; their fields are their configuration.  The engine passes times
    ``s < t`` and treats data, messages, params and accuracies as opaque.

    Times and accuracies have shape (B,) or ().  A family with ``site_times = True`` also takes them with shape
    (B, \*sites), and then its params hold an accuracy for each of the sites.
    """

    kind: ClassVar[str] = "family"

    @property
    @abc.abstractmethod
    def network_io(self) -> NetworkIO:
        """Site shape, features F and raw numbers R of the network that serves this family."""

    @abc.abstractmethod
    def times(self, n_steps: int) -> Tensor:
        """Times 0 = t_0 < ... < t_n = 1 of n messages: float64, on the CPU, with shape (n + 1,).

        Raises:
            StepCountError: If this number of steps is not allowed.
        """

    @abc.abstractmethod
    def accuracy(self, s: Tensor, t: Tensor) -> Tensor:
        """Accuracy of the message sent over (s, t]; shape of s and t, (B,) or ()."""

    @abc.abstractmethod
    def prior(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> P:
        """Beliefs theta_0 before any message."""

    @abc.abstractmethod
    def input(self, params: P) -> Distribution:
        """Input distribution p_I(x | theta), independent over sites."""

    @abc.abstractmethod
    def sender(self, x: Tensor, alpha: Tensor) -> Distribution:
        """Sender distribution p_S(y | x; alpha), independent over sites."""

    @abc.abstractmethod
    def update(self, params: P, y: Tensor, alpha: Tensor) -> P:
        """Bayesian update h(theta, y, alpha): the beliefs after message y of accuracy alpha, by Bayes' rule.

        The dtype of the params is kept: samplers pass accuracies in float64 whatever that is.
        """

    @abc.abstractmethod
    def flow(self, x: Tensor, t: Tensor) -> P:
        """Bayesian flow: draws theta ~ p_F(. | x; t), with t of shape (B,)."""

    @abc.abstractmethod
    def features(self, params: P) -> Tensor:
        """Features of the beliefs, which the network sees: (B, *site, F)."""

    @abc.abstractmethod
    def output(self, raw: Tensor, params: P) -> Output:
        """Output distribution p_O(x | theta; t) from the network's raw numbers (B, *site, R)."""

    @abc.abstractmethod
    def loss_rate(self, x: Tensor, output: Output, t: Tensor, mask: Mask | None = None) -> Tensor:
        """Integrand of the continuous-time loss at time t, in nats per example, with shape (B,).

        With a mask (:mod:`~bfn_toolkit.masks`) it is that of the sites that are present.  A family that is never used
        with one may leave the argument out.
        """

    @property
    def sites(self) -> Any:
        """Shape of the sites, at which times and masks may differ; for a product, the shapes by part.

        It is the site shape, or its leading axes if a site of the data has several numbers, as a unit vector has.
        """
        return self.network_io.site_shape

    @property
    def site_times(self) -> bool:
        """Whether times and accuracies may differ by site; by default not."""
        return False

    @property
    def n_steps(self) -> int | None:
        """The only number of steps that the family allows; None if it allows any."""
        return None

    @property
    def default_steps(self) -> int | None:
        """Number of steps of samples if none is given; None for the general default."""
        return self.n_steps

    @property
    def one_by_one(self) -> bool:
        """Whether samples are drawn one site after another by default (:class:`~bfn_toolkit.AnyOrderSampler`).

        For families whose beliefs know a site or do not, so that no more depends on its time.
        """
        return False

    @property
    def raw_in_use(self) -> Tensor | None:
        r"""True at the raw numbers that the output reads, with shape (\*site, R); None if it reads all."""
        return None

    @property
    def is_discrete(self) -> bool:
        """Whether data are classes, as torch.int64, rather than real numbers; for a product, whether all parts are."""
        return False

    @property
    def example_kind(self) -> ExampleKind:
        """Kind of one example, for figures; by default derived from shape, axes and :attr:`is_discrete`."""
        io = self.network_io.parts[""]
        site = io.shape
        if io.picture_axes is not None:
            return ExampleKind.IMAGE
        if io.axes == ("set", "channel") and site[1] in (2, 3) and io.kind == "real":
            return ExampleKind.SET
        if math.prod(site) == 1:
            return ExampleKind.CLASS if self.is_discrete else ExampleKind.NUMBER
        return ExampleKind.SEQUENCE if self.is_discrete else ExampleKind.POINTS

    @property
    def parts(self) -> Mapping[str, Family[Any]]:
        """The families whose losses are reported separately: this one, under the name "", unless it is a product."""
        return {"": self}

    @property
    def has_parts(self) -> bool:
        """Whether data, params and outputs are mappings by part: True only for a product."""
        return False

    def walk(self, *values: Any) -> Iterator[Part]:
        """Yields the parts, each with its share of the values (data, params, outputs, times or accuracies).

        A tensor where a product has a mapping, such as a time, is shared by all parts.  A family that is not a product
        is its own only part.

        >>> from bfn_gaussian import Gaussian
        >>> [(part.name, part.values) for part in Gaussian().walk(torch.zeros(1), torch.ones(()))]
        [('', (tensor([0.]), tensor(1.)))]
        """
        yield Part("", self, values)

    def factors(self, output: Output, *values: Any) -> Iterator[Part]:
        """Yields the parts that are independent under an output, like ``walk(output, *values)``.

        Parts that depend on each other stay together: they are one part, named "", whose family is the product itself.
        """
        yield Part("", self, (output, *values))

    def join(self, values: Mapping[str, Any]) -> Any:
        """Joins the values of the parts into one, the inverse of :meth:`walk`.

        For a product this is the mapping itself, otherwise its only value.  :meth:`join_outputs` joins outputs.
        """
        (value,) = values.values()
        return value

    def join_outputs(self, outputs: Mapping[str, Output]) -> Output:
        """Joins the outputs of the parts into one: for a product their independent product, otherwise the only one."""
        (output,) = outputs.values()
        return output

    def as_channel(self) -> ChannelFamily[Any]:
        """The family itself, if it is a Gaussian channel; solvers work in the coordinates of the channel.

        Raises:
            ConfigError: If it is not a channel.
        """
        raise ConfigError(
            f"a solver works in the coordinates of a ChannelFamily, which {type(self).__name__} is not; "
            "write sampler=AncestralSampler(), on the command line --sampler ancestral"
        )

    def receiver(self, output: Output, alpha: Tensor) -> Distribution:
        """Receiver distribution p_R(y | theta; t, alpha): the sender averaged over the output distribution."""
        return output.mix(lambda x: self.sender(x, self._of_candidates(alpha, x)))

    def _of_candidates(self, alpha: Any, x: Data) -> Any:
        """Accuracies for data that may have an axis of candidates after the batch; those by site need it too."""
        if isinstance(alpha, Tensor) and alpha.ndim < 2:
            return alpha
        wide = {}
        for part in self.walk(alpha, x):
            a, rows = part.values
            has_candidates = a.ndim > 1 and rows.ndim > 1 + len(part.family.network_io.site_shape)
            wide[part.name] = a.unsqueeze(1) if has_candidates else a
        return self.join(wide)

    def step_loss(self, x: Tensor, output: Output, alpha: Tensor, samples: int = 1, mask: Mask | None = None) -> Tensor:
        """KL(p_S || p_R) in nats per example, with shape (B,), in closed form if there is one.

        Arguments:
            x: Data.
            output: Output distribution.
            alpha: Accuracy of the message.
            samples: Number of draws of the message if the divergence has no closed form.
            mask: True where there is data; messages about other sites cost nothing.
        """
        return kl(self.sender(present(x, mask), alpha), self.receiver(output, alpha), samples, mask)

    def draw_update(self, params: P, x: Tensor, alpha: Tensor) -> P:
        """Draws theta' ~ p_U(. | theta, x; alpha): the beliefs after one message about x."""
        return self.update(params, self.sender(x, alpha).sample(), alpha)

    def forget(self, params: P, alpha: Tensor) -> P:
        r"""Draws the beliefs before the last message, of accuracy alpha, given those after it: an update reversed.

        .. math:: \theta' \sim p(\theta_{\beta - \alpha} \mid \theta_\beta)

        Beliefs say all that the messages said about the data, so this law is the same for every x.

        Arguments:
            params: Beliefs after messages of total accuracy beta.
            alpha: Accuracy, at most beta.
        Raises:
            ConfigError: If the family does not define it; channels do.
        """
        raise ConfigError(
            f"{type(self).__name__} cannot forget a message; write sampler=AncestralSampler(), on the command line "
            "--sampler ancestral"
        )

    @property
    def estimate_features(self) -> int:
        """Numbers of :meth:`estimate` at one site."""
        return self.network_io.parts[""].classes or 1

    def estimate(self, output: Output) -> Tensor:
        """Expectation of the data under an output, as features for self-conditioning; of classes, their probabilities.

        Its shape is (B, site, d), with :attr:`estimate_features` d.
        """
        classes = self.network_io.parts[""].classes
        if classes is None:
            return output.mean.unsqueeze(-1)
        return output.expect(lambda x: one_hot(x, classes).to(torch.get_default_dtype()))

    def loss_weight(self, t: Tensor) -> Tensor:
        """Factor, with shape (B,), that brings the loss rate of a fresh network to unit scale at every t."""
        return torch.ones_like(t)

    def check_data(self, x: Tensor) -> None:
        """Checks data at a public entry, once: shape, dtype (int64 if :attr:`is_discrete`), finite values and domain.

        A family whose domain is smaller overrides it, and calls it first.

        Raises:
            DataError: If x is not of shape (B, *site) or has values outside the family's domain.
        """
        site = self.network_io.site_shape
        if not isinstance(x, Tensor):
            raise DataError(f"{type(self).__name__} expects a tensor, found a {type(x).__name__}")
        if x.ndim != 1 + len(site) or tuple(x.shape[1:]) != site:
            expected, found = ", ".join(["B", *map(str, site)]), tuple(x.shape)
            raise DataError(f"{type(self).__name__} expects data of shape ({expected}), found {found}")
        if not self.is_discrete:
            check_finite(self, x)
        elif x.dtype != torch.int64:
            name = type(self).__name__
            raise DataError(f"{name} expects classes as torch.int64, found {x.dtype}; convert with x.long()")


class OutputHead(abc.ABC, Generic[P]):
    """Map from the network's raw numbers to an output distribution: a field of families that offer a choice.

    Heads receive the family, so that one head serves all its configurations.
    """

    kind: ClassVar[str] = "head"

    @property
    def data_variance(self) -> float:
        """Mean square of the data that the head is made for; 1 if it has no field for it."""
        return 1.0

    @property
    def bound(self) -> float:
        """Largest magnitude of the mean of an output; inf for none."""
        return math.inf

    @property
    def features_per_site(self) -> int:
        """Features F of the beliefs at one site."""
        return 1

    @property
    def raw_per_site(self) -> int:
        """Raw numbers R of the network at one site."""
        return 1

    @abc.abstractmethod
    def features(self, family: Any, params: P) -> Tensor:
        """Features of the beliefs, which the network sees: (B, *site, F)."""

    @abc.abstractmethod
    def output(self, family: Any, raw: Tensor, params: P) -> Output:
        """Output distribution from the raw numbers (B, *site, R)."""

    def loss_weight(self, family: Any, t: Tensor) -> Tensor:
        """See :meth:`Family.loss_weight`."""
        return torch.ones_like(t)

    def check_data(self, family: Any, x: Tensor) -> None:
        """Checks what this head requires of the data beyond the family; by default nothing.

        Raises:
            DataError: If x has values that the head's output distribution cannot have.
        """


class AdditiveFamily(Family[P]):
    """Family whose accuracies add: messages of a, then of b, are worth one of a + b, in any order."""

    @property
    @abc.abstractmethod
    def schedule(self) -> AccuracySchedule:
        """Accuracy schedule beta(t)."""

    @abc.abstractmethod
    def kl_rate(self, x: Tensor, output: Output) -> Tensor:
        """Limit of KL(p_S || p_R) / alpha for alpha to 0, in nats at each site: (B, *site)."""

    def times(self, n_steps: int) -> Tensor:
        """Equal steps, n + 1 times."""
        return torch.linspace(0.0, 1.0, check_n_steps(n_steps) + 1, dtype=torch.float64)

    def accuracy(self, s: Tensor, t: Tensor) -> Tensor:
        """beta(t) - beta(s)."""
        return self.schedule.accuracy(s, t)

    def flow(self, x: Tensor, t: Tensor) -> P:
        """One message of accuracy beta(t), received by the prior."""
        t = by_example(t, batch_size(x))
        dtype = x.dtype if x.is_floating_point() else t.dtype
        return self.draw_update(self.prior(batch_size(x), device=x.device, dtype=dtype), x, self.schedule.beta(t))

    def loss_rate(self, x: Tensor, output: Output, t: Tensor, mask: Mask | None = None) -> Tensor:
        """alpha(t) times the KL rate, summed over the sites."""
        return weighted(self.kl_rate(present(x, mask), output), self.schedule.alpha(t), mask)


class ChannelFamily(AdditiveFamily[P]):
    r"""Family that is a Gaussian channel: natural parameters :math:`v \mid x \sim N(B \phi(x), B I)`.

    A subclass defines the embedding phi, the map between (v, B) and the beliefs, and the output; sender, update,
    receiver, flow and loss rate follow.

    .. math:: y \sim N(\alpha \phi(x), \alpha I), \quad v' = v + y, \quad B' = B + \alpha, \quad
              \text{rate} = \tfrac{1}{2} \lVert \phi(x) - E_{p_O} \phi \rVert^2
    """

    @property
    @abc.abstractmethod
    def channels(self) -> int:
        """Dimension d of the embedding at one site."""

    @property
    def embedding_variance(self) -> float:
        """Mean square of a number of phi(x) over the data, roughly; time grids start where B is well below 1 / this."""
        return 1.0

    @property
    def embedding_bound(self) -> float:
        """Largest magnitude of the numbers of a mean embedding; inf for none."""
        return math.inf

    @abc.abstractmethod
    def embed(self, x: Tensor) -> Tensor:
        """Embedding phi(x) of the data: (B, *site, d)."""

    @abc.abstractmethod
    def natural_params(self, params: P) -> tuple[Tensor, Tensor]:
        """Coordinates in which the solvers work: v (B, *site, d), and B (B,), or (B, *sites) if sites differ."""

    @abc.abstractmethod
    def from_natural(self, v: Tensor, accuracy: Tensor) -> P:
        """Params from natural parameters v and accumulated accuracy B; the inverse of :meth:`natural_params`."""

    def from_scaled(self, w: Tensor, q: float) -> P:
        """Params from w = v / q, whose noise has unit scale; q = sqrt(B) is one number for all examples."""
        return self.from_natural(q * w, torch.full((w.shape[0],), q * q, device=w.device, dtype=w.dtype))

    def snr(self, alpha: Tensor) -> Tensor:
        """Signal-to-noise ratio of a message of accuracy alpha: the amount that it adds to B."""
        return alpha

    def as_channel(self) -> ChannelFamily[P]:
        """The family itself."""
        return self

    def mean_embedding(self, output: Output) -> Tensor:
        """E[phi(x)] under the output distribution: (B, *site, d); the solvers need nothing else of an output."""
        return output.expect(self.embed)

    @property
    def estimate_features(self) -> int:
        """Dimension d of the embedding."""
        return self.channels

    def estimate(self, output: Output) -> Tensor:
        """The mean embedding."""
        return self.mean_embedding(output)

    def prior(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> P:
        """v = 0 and B = 0: nothing has been received."""
        shape = (batch_size, *self.network_io.site_shape, self.channels)
        return self.from_natural(
            torch.zeros(shape, device=device, dtype=dtype), torch.zeros(batch_size, device=device, dtype=dtype)
        )

    def sender(self, x: Tensor, alpha: Tensor) -> Distribution:
        """N(alpha phi(x), alpha I)."""
        phi = self.embed(x)
        return normal(expand(alpha, phi) * phi, alpha.sqrt())

    def update(self, params: P, y: Tensor, alpha: Tensor) -> P:
        """v' = v + y, B' = B + alpha."""
        v, accuracy = self.natural_params(params)
        return self.from_natural(v + y.to(v.dtype), plus(accuracy, alpha.to(v.dtype)))

    def forget(self, params: P, alpha: Tensor) -> P:
        """A Brownian bridge: N(c v, c a I) with a = snr(alpha) and c = (B - a) / B."""
        v, accuracy = self.natural_params(params)
        a = self.snr(alpha).to(accuracy.dtype)
        accuracy, a = expand(accuracy, a), expand(a, accuracy)
        left = (accuracy - a).clamp_min(0.0)
        c = left / accuracy.clamp_min(torch.finfo(accuracy.dtype).tiny)  # 0 at the prior
        noise = torch.randn_like(v)
        return self.from_natural(expand(c, v) * v + expand((c * a).sqrt(), v) * noise, left)

    def kl_rate(self, x: Tensor, output: Output) -> Tensor:
        """Half the squared distance of phi(x) from its expectation under the output."""
        return 0.5 * (self.embed(x) - self.mean_embedding(output)).square().sum(-1)


class SteppedFamily(Family[P]):
    """Family without additive accuracies: the flow is the fold of the messages of a table."""

    @property
    @abc.abstractmethod
    def schedule(self) -> TableSchedule:
        """Accuracies of the messages, one by one."""

    @property
    def n_steps(self) -> int:
        """Number of messages of the table."""
        return self.schedule.n_steps

    def times(self, n_steps: int) -> Tensor:
        """i / n, for the n of the schedule only."""
        n = self.schedule.n_steps
        if check_n_steps(n_steps) != n:
            raise StepCountError(
                f"{type(self).__name__} was built with {n} steps; got n_steps={n_steps}. "
                f"Use n_steps={n}, or build it for {n_steps} steps."
            )
        return torch.linspace(0.0, 1.0, n + 1, dtype=torch.float64)

    def accuracy(self, s: Tensor, t: Tensor) -> Tensor:
        """Accuracy of the table's message over (s, t]."""
        return self.schedule.accuracy(s, t)

    def flow(self, x: Tensor, t: Tensor) -> P:
        """The messages of the table up to time t, one after the other."""
        dtype = x.dtype if x.is_floating_point() else t.dtype
        params = self.prior(batch_size(x), device=x.device, dtype=dtype)
        sent = self.schedule.step(by_example(t, batch_size(x)))
        for i, alpha in enumerate(self.schedule.accuracies):
            alphas = torch.full((batch_size(x),), alpha, device=x.device, dtype=dtype)
            params = select(sent > i, self.draw_update(params, x, alphas), params)
        return params

    def loss_rate(self, x: Tensor, output: Output, t: Tensor, mask: Mask | None = None) -> Tensor:
        """Refused: accuracies that do not add have no continuous-time limit.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(
            f"{type(self).__name__} has no continuous-time loss, because its accuracies do not add. "
            f"Use the discrete-time loss with n_steps={self.schedule.n_steps}."
        )
