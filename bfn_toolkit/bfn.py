r"""The Bayesian flow network: a family and a network make an output distribution.

.. math:: \theta \to \text{features}(\theta) \to \text{network}(\cdot, t) \to p_O(x \mid \theta; t)

Loss, likelihood bound and samples are thin calls of :mod:`~bfn_toolkit.losses` and :mod:`~bfn_toolkit.sampling.draws`.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from bfn_toolkit import arguments
from bfn_toolkit.data.codec import Codec
from bfn_toolkit.data.column_codecs import IdentityCodec
from bfn_toolkit.errors import ConfigError, PluginError
from bfn_toolkit.families import Family, check_n_steps
from bfn_toolkit.losses import ContinuousTimeLoss, DiscreteTimeLoss, NatsLoss, ReconstructionLoss
from bfn_toolkit.masks import told
from bfn_toolkit.model import Condition, Model, looks_at_values
from bfn_toolkit.networks import ConditionSignature, NetworkBuilder
from bfn_toolkit.outputs import Output
from bfn_toolkit.product_family import sum_of
from bfn_toolkit.randomness import common
from bfn_toolkit.sampling.draws import Draws
from bfn_toolkit.sampling.inpainting import Given
from bfn_toolkit.sampling.sampler import OnStep, Sampler
from bfn_toolkit.self_conditioning import estimate_io, with_estimate
from bfn_toolkit.shapes import Data, Mask, Times, batch_size, shared_time, times_like
from bfn_toolkit.validators import shown


class FlowModel(nn.Module, Model):
    """Model with a loss, a likelihood bound and samples, all from its family and output distribution."""

    def __init__(self, family: Family[Any]) -> None:
        super().__init__()
        self.family = family

    @abc.abstractmethod
    def output(
        self,
        params: Any,
        t: Times,
        condition: Condition | None = None,
        *,
        mask: Mask | None = None,
        previous: Output | None = None,
    ) -> Output:
        """Output distribution p_O(. | theta; t), as described for :class:`~bfn_toolkit.Model`."""

    def loss(
        self,
        x: Data,
        *,
        n_steps: int | None = None,
        condition: Condition | None = None,
        mask: Mask | None = None,
        **unknown: Any,
    ) -> Tensor:
        """Loss in nats per example, shape (B,): one draw of L^n, or of L^inf for n_steps=None.

        Arguments:
            x: Data, with shape (B, *site), on the device and in the dtype of the weights; numpy arrays and lists are
                put there.
            n_steps: Number of messages; None for continuous time.
            condition: Conditions of the network by name, each with B rows.
            mask: True where there is data (:mod:`bfn_toolkit.masks`); None if nothing is missing.
        Raises:
            ConfigError: If a number is not a positive integer, the data or a condition are on another device or in
                another dtype than the weights, or a condition is unknown, missing, of another length or outside its
                domain.  Values on an accelerator are not looked at in a step of a training, because that would wait.
            DataError: If the data have another shape or values outside the family's domain, or the mask does not fit.
        """
        return self._price(x, n_steps, condition, mask, unknown)

    def nll(
        self,
        x: Data,
        *,
        n_steps: int | None = None,
        condition: Condition | None = None,
        mask: Mask | None = None,
        **unknown: Any,
    ) -> Tensor:
        """One draw of an upper bound of -ln p(x) in nats per example, with shape (B,): messages and reconstruction.

        Arguments and errors are those of :meth:`loss`.
        """
        return self._price(x, n_steps, condition, mask, unknown, ReconstructionLoss())

    def _price(
        self,
        x: Data,
        n_steps: int | None,
        condition: Condition | None,
        mask: Mask | None,
        unknown: Mapping[str, Any],
        *more: NatsLoss,
    ) -> Tensor:
        """Sum of the losses of the messages and more, of arguments that are checked once."""
        _refuse(unknown)
        loss = ContinuousTimeLoss() if n_steps is None else DiscreteTimeLoss(check_n_steps(n_steps))
        x, mask = arguments.data_and_mask(self, x, mask)
        condition = arguments.conditions(self, condition, batch_size(x))
        return sum_of([nats(self, x, condition, mask) for nats in (loss, *more)])

    def sample(
        self,
        batch_size: int,
        *,
        n_steps: int | None = None,
        sampler: Sampler[Any] | str | None = None,
        condition: Condition | None = None,
        known: Given | None = None,
        mask: Mask | None = None,
        on_step: OnStep | None = None,
        **unknown: Any,
    ) -> Data:
        """Draws samples, with shape (batch_size, *site), from torch's generator (see :func:`~bfn_toolkit.seeded`).

        Samples are drawn in chunks (:mod:`~bfn_toolkit.sampling.chunks`), so under one seed the first rows do not
        depend on how many follow.  If memory runs out, the network sees fewer rows together; the samples stay the
        same.  Everything happens in this process: in a job of several processes, each one that calls this draws all
        of the samples.

        Arguments:
            batch_size: Number of samples.
            n_steps: Number of steps; by default 100, or the number of the family.
            sampler: The sampler, or its name in the registry, such as "ancestral"; by default the choice of
                :func:`~bfn_toolkit.default_sampler`.
            condition: Conditions of the network by name, each with ``batch_size`` rows.
            known: Values that the samples must have, as a pair ``(values, mask)``
                (:meth:`~bfn_toolkit.Observed.of`).
            mask: True where the samples have data, with shape (batch_size, *site) or leading axes of it, or by part; of
                sizes, :func:`~bfn_toolkit.mask_of_sizes`.  Elsewhere they are 0.
            on_step: Callback that receives each :class:`~bfn_toolkit.SamplerStep`, chunk by chunk.  An exception in
                it ends the sampling.
        Raises:
            ConfigError: If a number is not a positive integer, the sampler does not fit this family, the weights have
                half precision, a condition is unknown, missing, of another length or outside its domain, or the known
                values or the mask are malformed.
            DataError: If a known value is outside the family's domain.
            NonFiniteError: If the samples or the network's raw numbers are NaN or infinite.
            StepCountError: If the family or the sampler's grid does not allow this number of steps.
            ResourceError: If there is not enough memory.
        """
        _refuse(unknown)
        if isinstance(sampler, str):
            from bfn_toolkit.registry.registry import default_registry

            chosen: Sampler[Any] | None = default_registry().get("sampler", sampler).entry.build()
        else:
            chosen = sampler
        if on_step is not None and not callable(on_step):
            raise ConfigError(f"on_step: expected a function of a SamplerStep, got {shown(on_step)}")
        draws = Draws.of(self, batch_size, n_steps=n_steps, sampler=chosen, condition=condition, known=known, mask=mask)
        return draws.draw(range(draws.n), on_step=on_step)


def _refuse(unknown: Mapping[str, Any]) -> None:
    """Raises ConfigError for keywords that are not arguments; most likely they are conditions."""
    for name in unknown:
        raise ConfigError(f"there is no argument '{name}'; a condition is written condition={{{name!r}: values}}")


def _half_of_the_steps() -> bool:
    """One coin for all rows of a step, on the CPU."""
    with common():
        return bool(torch.rand(()) < 0.5)


class BFN(FlowModel):
    """Bayesian flow network: a family of distributions, and a network that predicts the data from beliefs.

    Arguments:
        family: Distribution family; its ``network_io`` gives the sizes that the network must fit.
        network: A module with ``forward(features, t, /, **condition)``, or a builder of one.  Only a model made from
            a builder can be saved (:meth:`save_pretrained`).
        builder: The builder from which ``network`` was made, if it is a module.
        codec: The way from the user's data to x and back; ``model.codec.decode(x)`` gives samples in the user's form.

    >>> from bfn_gaussian import Gaussian
    >>> from bfn_siren import Siren
    >>> bfn = BFN(Gaussian(site_shape=(2,)), Siren(width=32))
    >>> bfn.sample(5, n_steps=10).shape
    torch.Size([5, 2])
    """

    def __init__(
        self,
        family: Family[Any],
        network: nn.Module | NetworkBuilder,
        builder: NetworkBuilder | None = None,
        codec: Codec | None = None,
    ) -> None:
        super().__init__(family)
        self.codec = codec or IdentityCodec()
        io = family.network_io
        self.raw_per_site, self._site = io.out_features, (*io.site_shape, io.in_features)
        self.builder = builder if isinstance(network, nn.Module) else network
        parts = (network, self.builder)
        self._reads_estimate = any(getattr(part, "self_conditioning", False) for part in parts)
        self.io = estimate_io(family) if self._reads_estimate else family.network_io
        self.network = network if isinstance(network, nn.Module) else network.build(self.io)
        if not isinstance(self.network, nn.Module):
            cls, found = type(network), type(self.network).__name__
            raise PluginError(
                f"network {cls.__module__}.{cls.__qualname__}.build returned a {found}; expected a torch.nn.Module"
            )
        self.signature = ConditionSignature.of(self.network, self.builder)
        self.site_times = any(getattr(part, "site_times", False) for part in (self.network, self.builder))
        self.time_free = bool(getattr(self.builder, "time_free", False))
        self._totals: list[Tensor] = []  # within a finite guard, the sum of the network's numbers

    def extra_repr(self) -> str:
        """The family, which torch prints above the network."""
        return f"(family): {self.family!r}"

    @property
    def conditions(self) -> Collection[str] | None:
        """Names of the conditions that the network reads; None if it does not say."""
        return self.signature.names

    @property
    def self_conditioning(self) -> bool:
        """Whether the network reads the output of the evaluation before."""
        return self._reads_estimate

    def check_condition(self, condition: Condition | None, rows: int) -> None:
        """See :meth:`Model.check_condition`."""
        self.signature.check(condition, rows)
        if self.builder is not None:
            for name, value in (condition or {}).items():
                if looks_at_values(self, value.device):
                    self.builder.check_condition(name, value)

    def check_site_times(self, reason: str) -> None:
        """Checks that the network reads times that differ by site or part, or no times at all.

        Raises:
            ConfigError: If it reads one time for each example; the message holds the reason to ask for more.
        """
        if self.site_times or self.time_free or self.family.one_by_one:
            return
        cls = type(self.builder)
        has_option = attrs.has(cls) and "site_times" in attrs.fields_dict(cls)
        option = "write site_times=True in it, on the command line --network.site_times true"
        raise ConfigError(
            f"the network {self.signature.network} reads one time for each example, and {reason}; "
            f"{option if has_option else 'choose one whose builder, or module, has site_times = True'}"
        )

    @contextmanager
    def finite_guard(self) -> Iterator[Callable[[], bool]]:
        """NaN and inf survive a running sum, so one read at the end replaces a device sync per step."""
        self._totals.append(torch.zeros(()))
        try:
            yield lambda: bool(self._totals[-1].isfinite())
        finally:
            self._totals.pop()

    def output(
        self,
        params: Any,
        t: Times,
        condition: Condition | None = None,
        *,
        mask: Mask | None = None,
        previous: Output | None = None,
    ) -> Output:
        """Output distribution: features of the beliefs, then the network, then the family's output.

        A network with self-conditioning also sees an estimate of the data: that of ``previous``, in half of the steps
        of a training that of a first evaluation without a gradient, and otherwise zeros.

        At masked sites the network sees 0.  If its ``forward`` has a parameter ``mask``, it gets the mask too, in the
        shape of the features; and times in that shape, if they differ by site or part.

        Arguments:
            params: Beliefs theta.
            t: Time, with shape (B,) or (); (B, *site) or by part, if the network reads such times.
            condition: Conditions by name, each with B rows.
            mask: True where there is data, with shape (B, *site) or by part; None if nothing is missing.
            previous: The output of the evaluation before, which only a network with self-conditioning reads.
        Raises:
            ConfigError: If a condition is unknown, missing or of another length, or the network does not read times
                that differ by site or part.
            PluginError: If the network returns numbers of another shape.
        """
        features = self.family.features(params)
        if not isinstance(features, Tensor) or features.shape[1:] != self._site:
            found = tuple(features.shape) if isinstance(features, Tensor) else f"a {type(features).__name__}"
            kind = type(self.family)
            raise PluginError(
                f"family {kind.__module__}.{kind.__qualname__}.features returned {found}, expected a tensor of shape "
                f"(B, {', '.join(map(str, self._site))})"
            )
        self.signature.check(condition, features.shape[0])
        if self._reads_estimate:
            if previous is None and self.training and torch.is_grad_enabled() and _half_of_the_steps():
                with torch.no_grad():
                    previous = self.output(params, t, condition, mask=mask)
            features = with_estimate(self.family, self.io, features, previous)
        inputs = dict(condition) if condition else {}
        if mask is not None:
            present = self._spread(mask, features)
            features = torch.where(present, features, 0.0)
            if self.signature.reads_mask:
                inputs["mask"] = present
        raw = self.network(features, self._times(t, features), **inputs)
        expected = (*features.shape[:-1], self.raw_per_site)
        if not isinstance(raw, Tensor) or raw.shape != expected:
            actual = tuple(raw.shape) if isinstance(raw, Tensor) else type(raw).__name__
            cls = type(self.network)
            name = f"{cls.__module__}.{cls.__qualname__}"
            raise PluginError(f"network {name} returned {actual}, expected a tensor of shape {expected}")
        if self._totals:
            numbers = raw.detach() if raw.requires_grad else raw
            self._totals[-1] = self._totals[-1] + numbers.sum(dtype=features.dtype)  # a CPU scalar fits any device
        return self.family.output(raw if raw.dtype == features.dtype else raw.to(features.dtype), params)

    def _times(self, t: Times, features: Tensor) -> Tensor:
        """Times as the network sees them: (B,), or the shape of the features where they differ by site or part.

        A network that reads one time for each example gets the mean.
        """
        t = shared_time(t)
        if isinstance(t, Tensor) and t.ndim < 2:
            return times_like(t, features)
        self.check_site_times("these differ by site or part")
        times = self._spread(t, features).to(features.device, features.dtype, non_blocking=True)
        return times if self.site_times else times.flatten(1).mean(1)

    def _spread(self, values: Any, features: Tensor) -> Tensor:
        """A value for each feature, from values by site, by part or both; a missing part of a mask is present."""
        io = self.io
        if isinstance(values, Mapping):
            there = torch.ones((), dtype=torch.bool, device=features.device)
            values = {name: values.get(name, there) for name in io.parts}
        else:
            values = dict.fromkeys(io.parts, values)
        return io.spread(values).expand(features.shape)

    def save_pretrained(
        self, directory: str | Path, *, card: Mapping[str, Any] | None = None, force: bool = False
    ) -> None:
        """Writes ``config.json``, ``model.safetensors`` and the model card ``README.md``, ready to be shared.

        Adapters, such as those of the network "lora", are added to the weights that they adapt.

        Arguments:
            directory: Directory for the three files.
            card: Additional fields of the card (:class:`~bfn_toolkit.sharing.model_card.Card`).
            force: Whether to replace an existing model.
        Raises:
            ConfigError: If the model was made from a bare module, one of its components is not registered, or
                ``directory`` is not empty.
            NonFiniteError: If a weight is NaN or infinite; then nothing is written.
            ResourceError: If a file cannot be written.
        """
        from bfn_toolkit.sharing import pretrained

        architecture = pretrained.architecture_of(self.family, self.network, self.builder, self.codec)
        pretrained.save(architecture, self.network, directory, card, force=force)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        *,
        revision: str | None = None,
        allow_nonfinite: bool = False,
        allow_plugin_mismatch: bool = False,
    ) -> BFN:
        """Loads a model saved by :meth:`save_pretrained`, on the CPU and ready to sample.

        Arguments:
            model: The directory of the model; or "zoo:digits", a model of an installed zoo (``bfn zoo`` lists them); or
                "user/name", a repository of the Hugging Face Hub, whose files are fetched if ``user`` is not a folder
                here (``pip install huggingface-hub``).
            revision: Branch, tag or commit of the repository; with one, ``model`` is never a directory.
            allow_nonfinite: Whether weights may be NaN or infinite.
            allow_plugin_mismatch: Whether plugins may have another major version than when the model was saved.
        Raises:
            RunDirectoryError: If there is no such model, or one of its files is damaged.
            PluginError: If a plugin of the model is not installed, or only in another major version.
            ResourceError: If the Hub's client is not installed, or the files cannot be fetched.
        """
        from bfn_toolkit.sharing import hub, pretrained

        trust = {"allow_nonfinite": allow_nonfinite, "allow_plugin_mismatch": allow_plugin_mismatch}
        with hub.local(model, revision) as folder:
            saved = pretrained.load(folder, **trust)
        parts = saved.architecture
        return cls(parts.family, saved.network, parts.network, parts.codec).eval()

    def push_to_hub(
        self, repo_id: str, *, card: Mapping[str, Any] | None = None, private: bool = True, token: str | None = None
    ) -> str:
        """Saves the model and uploads it to the Hugging Face Hub (``pip install huggingface-hub``).

        Arguments:
            repo_id: Repository as "user/name"; created if it does not exist.
            card: See :meth:`save_pretrained`.
            private: Whether a newly created repository is private.
            token: Access token of the Hub; by default the one from ``hf auth login``.
        Returns:
            The URL of the model.
        Raises:
            ResourceError: If the Hub's client is not installed, or the upload fails.
        """
        from bfn_toolkit.sharing import hub

        def save(folder: Path) -> None:
            self.save_pretrained(folder, card=card)

        return hub.push(save, repo_id, private=private, token=token)


class Oracle(FlowModel):
    """Model whose output distribution is a function: for data whose posterior is known in closed form.

    Arguments:
        family: Distribution family.
        posterior: Function from params to the exact p(x | theta); differentiable, for a density or a gradient.  For
            data with missing sites it has an argument ``mask=None``, and does not read the beliefs about these.
    """

    def __init__(self, family: Family[Any], posterior: Callable[[Any], Output]) -> None:
        super().__init__(family)
        self.posterior = posterior

    def output(
        self,
        params: Any,
        t: Times,
        condition: Condition | None = None,
        *,
        mask: Mask | None = None,
        previous: Output | None = None,
    ) -> Output:
        """Returns the posterior, which does not depend on t."""
        output: Output = told(self.posterior, params, mask=mask)
        return output
