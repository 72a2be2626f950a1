r"""Products: data of several parts, each with its own family, under one network.

.. math:: \theta = (\theta^1 .. \theta^M), \quad p_S = \prod_m p_S^m, \quad p_O = \prod_m p_O^m, \quad L = \sum_m L^m

Every verb maps over the parts.  Data, params, messages and accuracies are mappings by the parts' names; a tensor in
place of a mapping (a time, an accuracy) is shared by all parts.  Draws of one part do not disturb those of another.

Under the outputs of a network the parts are independent (:class:`JointOutput`).  Under any other output over mappings
they may depend on each other: their messages are priced together, and ``output[name]`` is the marginal of a part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import attrs
import torch
from attrs import field
from torch import Tensor
from torch.distributions import Distribution

from bfn_toolkit.distributions import as_batch
from bfn_toolkit.errors import ConfigError, DataError
from bfn_toolkit.families import ExampleKind, Family, Part
from bfn_toolkit.masks import marginal, mask_by_part, told
from bfn_toolkit.network_io import NetworkIO
from bfn_toolkit.outputs import Kernel, Output
from bfn_toolkit.randomness import streams
from bfn_toolkit.shapes import Data, Mask, Times, batch_size, part_of

Beliefs = dict[str, Any]


class Joint(Distribution):
    """Independent distributions by name: a draw is a mapping, a log-density is the sum.

    Arguments:
        parts: Distributions by name, all with the batch shape (B,).
    """

    arg_constraints = {}  # noqa: RUF012 - the name and form that torch prescribes

    def __init__(self, parts: Mapping[str, Distribution]) -> None:
        self.parts = dict(parts)
        if not self.parts:
            raise ConfigError("Joint: parts: expected at least one distribution, got {}")
        super().__init__(next(iter(self.parts.values())).batch_shape, validate_args=False)

    def __getitem__(self, name: str) -> Distribution:
        return self.parts[name]

    def __repr__(self) -> str:
        return f"Joint({', '.join(f'{name}: {part}' for name, part in self.parts.items())})"

    def expand(self, batch_shape: Sequence[int], _instance: Joint | None = None) -> Joint:
        """The same distributions for more examples."""
        return Joint({name: part.expand(torch.Size(batch_shape)) for name, part in self.parts.items()})

    @property
    def mean(self) -> Data:
        """Means by name."""
        return {name: part.mean for name, part in self.parts.items()}

    def sample(self, sample_shape: Sequence[int] = ()) -> Data:
        """Draws by name, each from its own random stream."""
        stream, draws = streams(), {}
        for name, part in self.parts.items():
            with stream(name):
                draws[name] = part.sample(torch.Size(sample_shape))
        return draws

    def log_prob(self, x: Data) -> Tensor:
        """Sum of the log-densities, in nats per example."""
        return sum_of([part.log_prob(x[name]) for name, part in self.parts.items()])


@as_batch.register
def _(distribution: Joint, axes: int) -> Distribution:
    return Joint({name: as_batch(part, axes) for name, part in distribution.parts.items()})


@marginal.register
def _(distribution: Joint, mask: Mask) -> Distribution:
    masks = mask_by_part(distribution.parts, mask)
    present = {
        name: part if masks[name] is None else marginal(part, masks[name]) for name, part in distribution.parts.items()
    }
    return Joint(present)


def sum_of(terms: Sequence[Tensor]) -> Tensor:
    """Sum of tensors of one shape, each in nats per example."""
    return torch.stack(list(terms)).sum(0) if len(terms) > 1 else terms[0]


@attrs.frozen(eq=False)
class JointOutput:
    """Output distributions by name, independent given the beliefs.

    Arguments:
        parts: Output distributions by name.
    """

    parts: Mapping[str, Output]

    def __getitem__(self, name: str) -> Output:
        return self.parts[name]

    @property
    def mean(self) -> Data:
        """Means by name."""
        return {name: part.mean for name, part in self.parts.items()}

    @property
    def mode(self) -> Data:
        """Modes by name."""
        return {name: part.mode for name, part in self.parts.items()}

    def sample(self) -> Data:
        """Draws by name, each from its own random stream."""
        stream, draws = streams(), {}
        for name, part in self.parts.items():
            with stream(name):
                draws[name] = part.sample()
        return draws

    def log_prob(self, x: Data, mask: Mask | None = None) -> Tensor:
        """Sum of the log-probabilities, in nats per example."""
        if mask is None:
            return sum_of([part.log_prob(x[name]) for name, part in self.parts.items()])
        masks = mask_by_part(x, mask)
        return sum_of([told(part.log_prob, x[name], mask=masks[name]) for name, part in self.parts.items()])

    def expect(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Refused: an expectation is defined part by part.

        Raises:
            TypeError: Always.
        """
        raise TypeError("a JointOutput takes expectations part by part: output[name].expect(function)")

    def mix(self, kernel: Kernel) -> Distribution:
        """Each part mixed by itself; each part of the kernel depends only on its own part of the data."""
        mode = self.mode
        return Joint(
            {name: part.mix(lambda x, name=name: kernel({**mode, name: x})[name]) for name, part in self.parts.items()}  # type: ignore[misc, index, arg-type]
        )


def _families(parts: Mapping[str, Family[Any]]) -> dict[str, Family[Any]]:
    return dict(parts)


@attrs.frozen
class ProductFamily(Family[Beliefs]):
    """A family for each part of the data, under one network.

    The network's sites are the leading axes that all parts share: atoms with a type and a position keep their atom
    axis.  All other axes become features of a site.

    Arguments:
        parts: Families by name.

    >>> from bfn_categorical import Categorical
    >>> from bfn_gaussian import Gaussian
    >>> atoms = ProductFamily({"position": Gaussian(site_shape=(20, 3)), "type": Categorical((20,), classes=5)})
    >>> atoms.network_io
    NetworkIO(site_shape=(20,), in_features=8, out_features=8)
    """

    parts: Mapping[str, Family[Any]] = field(
        converter=_families, eq=lambda parts: tuple(sorted(parts.items(), key=lambda part: part[0]))
    )

    @parts.validator
    def _check_parts(self, _: object, parts: Mapping[str, Family[Any]]) -> None:
        if not parts or not all(isinstance(name, str) and name for name in parts):
            raise ValueError(f"parts must be families by name, at least one, got {list(parts)}")
        if not all(isinstance(part, Family) for part in parts.values()):
            raise ValueError(f"parts must be families, got {[type(part).__name__ for part in parts.values()]}")
        for name, part in parts.items():
            if part.has_parts:
                flat = ", ".join(f"'{name}_{inner}': ..." for inner in part.parts)
                raise ValueError(f"part '{name}' is itself a product; write its parts in its place: {{{flat}}}")

    @property
    def site_times(self) -> bool:
        """Whether times may differ by site in all parts."""
        return all(part.site_times for part in self.parts.values())

    @property
    def sites(self) -> dict[str, tuple[int, ...]]:  # noqa: D102
        return {name: part.sites for name, part in self.parts.items()}

    @property
    def is_discrete(self) -> bool:
        """Whether all parts are discrete."""
        return all(part.is_discrete for part in self.parts.values())

    @property
    def example_kind(self) -> ExampleKind:
        """A row of parts, each with its own kind."""
        return ExampleKind.ROW

    @property
    def has_parts(self) -> bool:  # noqa: D102
        return True

    def walk(self, *values: Any) -> Iterator[Part]:
        """The parts in their order."""
        for name, family in self.parts.items():
            yield Part(name, family, tuple(part_of(value, name) for value in values))

    def factors(self, output: Output, *values: Any) -> Iterator[Part]:
        """The parts, if they are independent under the output."""
        return self.walk(output, *values) if isinstance(output, JointOutput) else super().factors(output, *values)

    def join(self, values: Mapping[str, Any]) -> Beliefs:
        """The mapping itself."""
        return dict(values)

    def join_outputs(self, outputs: Mapping[str, Output]) -> Output:
        """Independent outputs."""
        return JointOutput(outputs)

    def _each(self, verb: Callable[..., Any], *values: Any) -> Beliefs:
        """Calls a verb of each part's family with the part's share of the values."""
        return {part.name: verb(part.family, *part.values) for part in self.walk(*values)}

    def _draw(self, verb: Callable[..., Any], *values: Any) -> Beliefs:
        """Like :meth:`_each`, with a separate random stream for each part."""
        stream, drawn = streams(), {}
        for part in self.walk(*values):
            with stream(part.name):
                drawn[part.name] = verb(part.family, *part.values)
        return drawn

    @cached_property
    def network_io(self) -> NetworkIO:  # noqa: D102
        return NetworkIO(parts={name: part.network_io.parts[""] for name, part in self.parts.items()})

    @property
    def n_steps(self) -> int | None:
        """The number of steps of the first part that fixes one."""
        return next((part.n_steps for part in self.parts.values() if part.n_steps is not None), None)

    def times(self, n_steps: int) -> Tensor:
        """The times of the parts, which must agree.

        Raises:
            StepCountError: If a part does not allow this number of steps.
            ConfigError: If two parts have different times.
        """
        times = self._each(lambda family: family.times(n_steps))
        first, *others = times.values()
        if not all(torch.equal(first, other) for other in others):
            raise ConfigError(f"the parts {', '.join(times)} step at different times; give them families that agree")
        return torch.as_tensor(first)

    def accuracy(self, s: Times, t: Times) -> Any:
        """Accuracies by name; s and t may be mappings too, if each part has its own time."""
        return self._each(lambda family, s, t: family.accuracy(s, t), s, t)

    def prior(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Beliefs:
        """Priors by name."""
        return self._each(lambda family: family.prior(batch_size, device=device, dtype=dtype))

    def input(self, params: Beliefs) -> Distribution:
        """Input distributions, independent."""
        return Joint(self._each(lambda family, params: family.input(params), params))

    def sender(self, x: Data, alpha: Any) -> Distribution:
        """Senders, independent."""
        return Joint(self._each(lambda family, x, alpha: family.sender(x, alpha), x, alpha))

    def receiver(self, output: Output, alpha: Any) -> Distribution:
        """Receivers, independent if the outputs are."""
        if not isinstance(output, JointOutput):
            return super().receiver(output, alpha)
        return Joint(self._each(lambda family, output, alpha: family.receiver(output, alpha), output, alpha))

    def update(self, params: Beliefs, y: Data, alpha: Any) -> Beliefs:
        """Updates, part by part."""
        return self._each(lambda family, params, y, alpha: family.update(params, y, alpha), params, y, alpha)

    def draw_update(self, params: Beliefs, x: Data, alpha: Any) -> Beliefs:
        """Updates, each with its own random stream."""
        return self._draw(lambda family, params, x, alpha: family.draw_update(params, x, alpha), params, x, alpha)

    def forget(self, params: Beliefs, alpha: Any) -> Beliefs:
        """Forgets part by part, each with its own random stream."""
        return self._draw(lambda family, params, alpha: family.forget(params, alpha), params, alpha)

    def flow(self, x: Data, t: Any) -> Beliefs:
        """Flows, each with its own random stream; t may be a mapping."""
        return self._draw(lambda family, x, t: family.flow(x, t), x, t)

    def features(self, params: Beliefs) -> Tensor:
        """Features of all parts, side by side at each of the network's sites."""
        return self.network_io.join(self._each(lambda family, params: family.features(params), params))

    def output(self, raw: Tensor, params: Beliefs) -> Output:
        """Outputs of the parts from their share of the raw numbers."""
        shares = self.network_io.split(raw, "out_features")
        return JointOutput(self._each(lambda family, raw, params: family.output(raw, params), shares, params))

    def step_loss(self, x: Data, output: Output, alpha: Any, samples: int = 1, mask: Mask | None = None) -> Tensor:
        """Sum of the losses of the parts, if the outputs are independent; otherwise the KL of the joint messages.

        On average the sum over the marginals of dependent parts is larger, by what one part's message says about the
        others; the difference vanishes for many steps.
        """
        if not isinstance(output, JointOutput):
            return super().step_loss(x, output, alpha, samples, mask)

        def loss(family: Family[Any], x: Tensor, output: Output, alpha: Tensor, mask: Mask | None) -> Tensor:
            price: Tensor = told(family.step_loss, x, output, alpha, samples, mask=mask)
            return price

        return sum_of(list(self._draw(loss, x, output, alpha, mask_by_part(x, mask)).values()))

    def loss_rate(self, x: Data, output: Any, t: Any, mask: Mask | None = None) -> Tensor:
        """Sum of the rates, of the marginals where the parts are dependent; t may be a mapping.

        It is exact for both, because in a short time a part's message says nothing about another's.
        """

        def rate(family: Family[Any], x: Tensor, output: Output, t: Tensor, mask: Mask | None) -> Tensor:
            price: Tensor = told(family.loss_rate, x, output, t, mask=mask)
            return price

        return sum_of(list(self._each(rate, x, output, t, mask_by_part(x, mask)).values()))

    def check_data(self, x: Data) -> None:
        """Checks that x has the parts' names, that each part is valid for its family, and that rows agree."""
        if not isinstance(x, Mapping) or x.keys() != self.parts.keys():
            found = f"parts {', '.join(x)}" if isinstance(x, Mapping) else f"a {type(x).__name__}"
            raise DataError(f"ProductFamily expects a mapping with the parts {', '.join(self.parts)}, found {found}")
        for part in self.walk(x):
            try:
                part.family.check_data(*part.values)
            except DataError as error:
                raise DataError(f"part '{part.name}': {error}") from error
        rows = {name: batch_size(part) for name, part in x.items()}
        if len(set(rows.values())) > 1:
            raise DataError(f"the parts have different numbers of rows: {rows}")
