r"""The Bayesian flow network: a family and a network make an output distribution.

.. math:: \theta \to \text{features}(\theta) \to \text{network}(\cdot, t) \to p_O(x \mid \theta; t)

Loss, likelihood bound and samples are thin calls of :mod:`~bfn_toolkit.losses` and
:mod:`~bfn_toolkit.sampling.sampler`.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from bfn_toolkit.errors import ConfigError, NonFiniteError, PluginError
from bfn_toolkit.families import Family
from bfn_toolkit.losses import ContinuousTimeLoss, DiscreteTimeLoss, ReconstructionLoss
from bfn_toolkit.networks import NetworkBuilder
from bfn_toolkit.outputs import Output
from bfn_toolkit.sampling.chunks import MAX_ROWS, MIN_ROWS, chunk_rows, map_chunks
from bfn_toolkit.sampling.default import default_sampler
from bfn_toolkit.sampling.inpainting import Given, InpaintedModel, Observed
from bfn_toolkit.sampling.sampler import OnStep, Sampler, SamplerStep
from bfn_toolkit.shapes import Data, leaves, times_like


class FlowModel(nn.Module, abc.ABC):
    """A family with an output distribution, from wherever it comes."""

    def __init__(self, family: Family[Any]) -> None:
        super().__init__()
        self.family = family

    @abc.abstractmethod
    def output(self, params: Any, t: Tensor, **condition: Tensor) -> Output:
        """Output distribution p_O(. | theta; t), with t of shape (B,) or ()."""

    def loss(self, x: Tensor, *, n_steps: int | None = None, **condition: Tensor) -> Tensor:
        """Price of the messages in nats per example, shape (B,): one draw of L^n, or of L^inf for n_steps=None."""
        loss = ContinuousTimeLoss() if n_steps is None else DiscreteTimeLoss(n_steps)
        return loss(self, x, **condition)

    def nll(self, x: Tensor, *, n_steps: int | None = None, **condition: Tensor) -> Tensor:
        """One draw of an upper bound of -ln p(x) in nats per example, with shape (B,): messages and reconstruction."""
        return self.loss(x, n_steps=n_steps, **condition) + ReconstructionLoss()(self, x, **condition)

    def sample(
        self,
        batch_size: int,
        *,
        n_steps: int,
        sampler: Sampler[Any] | None = None,
        first: int = 0,
        on_step: OnStep | None = None,
        known: Given | None = None,
        **condition: Tensor,
    ) -> Data:
        """Draws samples, with shape (batch_size, *site), from torch's generator (see :func:`~bfn_toolkit.seeded`).

        They are drawn in blocks (:mod:`~bfn_toolkit.sampling.chunks`), so that under one seed the first rows do not
        depend on how many follow; where memory does not suffice, the network sees fewer rows at once, to the same
        effect.

        Arguments:
            batch_size: Number of samples.
            n_steps: Number of steps.
            sampler: How; by default as :func:`~bfn_toolkit.default_sampler` chooses.
            first: Number of the first sample, where others have been drawn under the same seed.
            on_step: Called with each :class:`~bfn_toolkit.SamplerStep` of the network, block by block.
            known: Values that the samples are to have, as a pair ``(values, mask)`` (:meth:`~bfn_toolkit.Observed.of`).
            condition: What the network is conditioned on, with ``batch_size`` rows.
        Raises:
            ConfigError: If a number is not a positive integer, the sampler is not for this family, the weights are of
                half precision, or known values have another form.
            DataError: If a known value is outside the family's domain.
            NonFiniteError: If samples, or what the network returned on the way to them, are NaN or infinite.
            StepCountError: If the family or the sampler's grid does not allow this number of steps.
            ResourceError: If memory does not suffice.
        """
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ConfigError(f"batch_size: the number of samples must be an integer of at least 1, got {batch_size!r}")
        weight = next(self.parameters(), None)
        device, dtype = (None, None) if weight is None else (weight.device, weight.dtype)
        if dtype in (torch.float16, torch.bfloat16):
            raise ConfigError(
                f"the weights are {dtype}, in which beliefs lose most messages, and the state is float32; "
                "leave the weights as they are and sample under torch.autocast"
            )
        chosen = sampler or default_sampler(self.family, n_steps)[0]
        rows = chunk_rows(math.prod(self.family.network_io.site_shape))
        known = None if known is None else Observed.of(self.family, known, batch_size)
        key = int(torch.randint(2**62, ()))

        def draw(block: int) -> Data:
            index = torch.arange(block * rows, (block + 1) * rows) - first
            index = index.clamp_(0, batch_size - 1)  # of rows that are cut off
            given: dict[str, Any] = {name: value[index.to(value.device)] for name, value in condition.items()}

            def tell(evaluation: SamplerStep) -> object:
                return on_step and on_step(attrs.evolve(evaluation, first=block * rows))

            told = None if on_step is None else tell
            model = self if known is None else InpaintedModel(self, known.rows(index.to(device or "cpu")))
            return chosen.sample(model, rows, n_steps=n_steps, device=device, dtype=dtype, on_step=told, **given)

        with self.watched() as is_finite:
            samples = map_chunks(batch_size, rows, draw, (key,), device or "cpu", first, self.halve_micro_batch)
            if not is_finite():  # a class that is drawn from NaN looks like any other
                raise NonFiniteError("the network returned numbers that are not finite; look at its weights")
        bad = sum(int((~part.isfinite()).sum()) for part in leaves(samples))
        if bad:
            raise NonFiniteError(f"{bad} numbers of {batch_size} samples are not finite; look at the family's updates")
        return samples

    def watched(self) -> AbstractContextManager[Callable[[], bool]]:
        """Scope whose value says, when it is asked, whether all that the network has returned in it is finite."""
        return nullcontext(lambda: True)

    def halve_micro_batch(self) -> bool:
        """Makes do with less memory; False where there is no way."""
        return False


class BFN(FlowModel):
    """Bayesian flow network.

    Arguments:
        family: Distribution family; its ``network_io`` says what the network has to fit.
        network: A module with ``forward(features, t, **condition)``, or the builder of one.  Only a model that was made
            from a builder can be saved (:meth:`save_pretrained`).

    >>> from bfn_gaussian import Gaussian
    >>> from bfn_siren import Siren
    >>> bfn = BFN(Gaussian(site_shape=(2,)), Siren(width=32))
    >>> bfn.sample(5, n_steps=10).shape
    torch.Size([5, 2])
    """

    def __init__(self, family: Family[Any], network: nn.Module | NetworkBuilder) -> None:
        super().__init__(family)
        self.raw_per_site = family.network_io.out_features
        self.builder = None if isinstance(network, nn.Module) else network
        self.network = network if isinstance(network, nn.Module) else network.build(family.network_io)
        self.micro_batch: int | None = None  # rows that the network sees at once; None for all
        self._total: Tensor | None = None  # of what the network returns while it is watched

    def halve_micro_batch(self) -> bool:
        """Halves the number of rows that the network sees at once, down to where kernels would round otherwise."""
        self.micro_batch = (self.micro_batch or 2 * MAX_ROWS) // 2
        return self.micro_batch >= MIN_ROWS

    @contextmanager
    def watched(self) -> Iterator[Callable[[], bool]]:
        """What is not finite stays so in a sum, which is read once, and not in every step."""
        self._total = torch.zeros(())
        try:
            yield lambda: self._total is None or bool(self._total.isfinite())
        finally:
            self._total = None

    def output(self, params: Any, t: Tensor, **condition: Tensor) -> Output:
        """Features, network, output distribution."""
        features = self.family.features(params)
        raw = self._raw(features, times_like(t, features), condition)
        expected = (*features.shape[:-1], self.raw_per_site)
        if not isinstance(raw, Tensor) or raw.shape != expected:
            found = tuple(raw.shape) if isinstance(raw, Tensor) else type(raw).__name__
            cls = type(self.network)
            name = f"{cls.__module__}.{cls.__qualname__}"
            raise PluginError(f"network {name} returned {found}, expected a tensor of shape {expected}")
        if self._total is not None:
            seen = raw.detach() if raw.requires_grad else raw
            self._total = self._total + seen.sum(dtype=features.dtype)  # a CPU scalar goes with any device
        return self.family.output(raw if raw.dtype == features.dtype else raw.to(features.dtype), params)

    def save_pretrained(
        self, directory: str | Path, *, card: Mapping[str, Any] | None = None, force: bool = False
    ) -> None:
        """Writes ``config.json``, ``model.safetensors`` and a model card, ``README.md``, as people share models.

        Arguments:
            directory: Where to write them.
            card: What the card is to say besides: the fields of :class:`~bfn_toolkit.sharing.model_card.Card`.
            force: Replace a model that is there.
        Raises:
            ConfigError: If the model was made from a bare module, a part of it has no name, or there is something
                in ``directory``.
            NonFiniteError: If a weight is NaN or infinite; nothing is written then.
            ResourceError: If a file cannot be written.
        """
        from bfn_toolkit.sharing import pretrained

        pretrained.save(pretrained.architecture_of(self), self.network.state_dict(), directory, card, force=force)

    @classmethod
    def from_pretrained(
        cls, directory: str | Path, *, allow_nonfinite: bool = False, allow_plugin_mismatch: bool = False
    ) -> BFN:
        """Reads what :meth:`save_pretrained` wrote, from a local directory, onto the CPU and ready to sample.

        Arguments:
            directory: The directory.
            allow_nonfinite: Whether weights may be NaN or infinite.
            allow_plugin_mismatch: Whether plugins may be of another major version than those that saved it.
        Raises:
            RunDirectoryError: If it is not such a directory, or a file of it is damaged.
            PluginError: If a plugin of it is not installed, or only in another major version.
        """
        from bfn_toolkit.sharing import pretrained

        trust = {"allow_nonfinite": allow_nonfinite, "allow_plugin_mismatch": allow_plugin_mismatch}
        saved = pretrained.load(directory, **trust)
        model = cls(saved.architecture.family, saved.network)
        model.builder = saved.architecture.network
        return model.eval()

    def push_to_hub(
        self, repo_id: str, *, card: Mapping[str, Any] | None = None, private: bool = True, token: str | None = None
    ) -> str:
        """Saves the model and uploads it to the Hugging Face Hub (``pip install "bfn-toolkit[hub]"``).

        Arguments:
            repo_id: "user/name"; made if it is not there.
            card: See :meth:`save_pretrained`.
            private: Whether a repository that is made is private.
            token: Of the Hub; by default that of ``hf auth login``.
        Returns:
            The address of the model.
        Raises:
            ResourceError: If the Hub's client is not installed, or the upload fails.
        """
        from bfn_toolkit.sharing import pretrained

        def save(folder: Path) -> None:
            self.save_pretrained(folder, card=card)

        return pretrained.push(save, repo_id, private=private, token=token)

    def _raw(self, features: Tensor, t: Tensor, condition: Mapping[str, Tensor]) -> Any:
        if self.micro_batch is None or len(features) <= self.micro_batch:
            return self.network(features, t, **condition)
        names = list(condition)
        columns = (torch.split(column, self.micro_batch) for column in (features, t, *condition.values()))
        pieces = zip(*columns, strict=True)
        return torch.cat([self.network(f, s, **dict(zip(names, rest, strict=True))) for f, s, *rest in pieces])


class Oracle(FlowModel):
    """A model whose output distribution is a given function: for data whose posterior is known in closed form.

    Arguments:
        family: Distribution family.
        posterior: The exact p(x | theta), as a function of the params.
    """

    def __init__(self, family: Family[Any], posterior: Callable[[Any], Output]) -> None:
        super().__init__(family)
        self.posterior = posterior

    @torch.no_grad()
    def output(self, params: Any, t: Tensor, **condition: Tensor) -> Output:
        """The posterior, whatever the time."""
        return self.posterior(params)
