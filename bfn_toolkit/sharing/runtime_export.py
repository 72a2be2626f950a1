"""Models exported as programs, which are sampled without this toolkit: by onnxruntime, or by torch alone.

================== ===================================================================
``start.onnx``     from random numbers to the first state of the sampler (or ``.pt2``)
``step.onnx``      a step of the sampler, with the network
``sampler.json``   inputs, outputs, times, conditions, and the codec of the data
``sample.py``      the loop, in numpy
``README.md``      how to use them
``SHA256SUMS``     digests of the others, for ``sha256sum -c``
================== ===================================================================

:mod:`~bfn_toolkit.sharing.tracing` makes the programs.
"""

from __future__ import annotations

import inspect
import io
import linecache
import logging
import math
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from bfn_toolkit.config.json_values import codec_to_json
from bfn_toolkit.errors import BFNWarning, ConfigError, NonFiniteError, ResourceError
from bfn_toolkit.families import check_n_steps
from bfn_toolkit.guidance.classifier_free import Guided
from bfn_toolkit.model import dtype_of_beliefs
from bfn_toolkit.registry.registry import default_registry
from bfn_toolkit.runs.run import Run
from bfn_toolkit.sampling.default import default_sampler, default_steps
from bfn_toolkit.sampling.sampler import Sampler
from bfn_toolkit.sharing import standalone
from bfn_toolkit.sharing.pretrained import MODEL_TYPE, check_place
from bfn_toolkit.sharing.tracing import Input, Program, trace
from bfn_toolkit.storage.files import check_space, to_json, write_together

DESCRIPTION = "sampler.json"
FORMATS = {"onnx": "onnx", "torch-export": "pt2"}  # endings of the programs


def export_programs(
    run: Run,
    directory: str | Path,
    format: Literal["onnx", "torch-export"],
    *,
    sampler: str | Sampler[Any] | None = None,
    n_steps: int | None = None,
    guidance: float = 0.0,
    force: bool = False,
) -> None:
    """Writes the sampler of a model as programs, with a script that draws samples without this toolkit.

    The same random numbers give the same samples as here, up to rounding.  Masks and known values are left out: all
    sites have data.

    Arguments:
        run: The run, or an opened saved model.
        directory: Directory of the files.
        format: "onnx" for onnxruntime, "torch-export" for torch.
        sampler: The sampler, or its name; by default the choice of :func:`~bfn_toolkit.default_sampler`.
        n_steps: Number of steps; by default as for samples of the model.
        guidance: Weight of :class:`~bfn_toolkit.Guided`.
        force: Whether to replace a model that is there.
    Raises:
        ConfigError: If ``directory`` is not empty, or a part of the model cannot become a program.
        NonFiniteError: If a weight is NaN or infinite.
        ResourceError: If a library is missing, or a file cannot be written.
    """
    folder, ending, model = Path(directory), FORMATS[format], run.model.cpu().eval()
    check_place(folder, DESCRIPTION, force)
    if format == "onnx":
        _check_libraries()
    steps = default_steps(model.family) if n_steps is None else check_n_steps(n_steps)
    if isinstance(sampler, str):
        chosen: Sampler[Any] = default_registry().get("sampler", sampler).entry.build()
    else:
        chosen = sampler or default_sampler(model.family, steps)
    dtype, conditions = _dtype(run), _conditions(run)
    if run.sizes is not None:
        warnings.warn(SIZES, stacklevel=2)
    with _explained(run, chosen), _quiet():
        programs = trace(Guided(model, guidance) if guidance else model, chosen, steps, conditions, dtype)
        pieces = {"start": programs.start, "step": programs.step}
        files = {f"{name}.{ending}": _SAVE[format](program) for name, program in pieces.items()}
    description = {
        "model_type": MODEL_TYPE,
        "format": format,
        "bfn-toolkit": version("bfn-toolkit"),
        "torch": torch.__version__,
        **_names(run, chosen),
        "n_steps": steps,
        "guidance": guidance,
        "dtype": _text(dtype),
        "times": programs.times.tolist(),
        "first": programs.first,
        **{name: _described(program, f"{name}.{ending}") for name, program in pieces.items()},
        "samples": {name[2:]: name for name in programs.step.outputs if name.split(".")[0] == "x"},
        "conditions": {
            name: {
                "shape": one.shape,
                "dtype": _text(one.dtype),
                "default": -1 if name == LABEL else None,
                "names": list(run.codec.categories.get(name, ())),
            }
            for name, one in conditions.items()
        },
        "codec": codec_to_json(run.codec, default_registry()),
    }
    files[DESCRIPTION] = (to_json(description) + "\n").encode()
    files["sample.py"] = inspect.getsource(standalone).encode()
    files["README.md"] = _readme(folder.absolute().name, description).encode()
    check_space(folder, sum(map(len, files.values())))
    write_together(folder, files)


LABEL = "label"  # the condition whose negative values mean none
SIZES = BFNWarning("the data vary in size, but an exported program does not: its samples have data at all sites")


def _check_libraries() -> None:
    for name in ("onnx", "onnxscript"):
        if find_spec(name) is None:
            raise ResourceError(f"{name} is not installed; write: pip install onnx onnxscript onnxruntime")


def _dtype(run: Run) -> torch.dtype:
    """Dtype of the beliefs.

    Raises:
        ConfigError: If the weights have half precision.
        NonFiniteError: If a weight is NaN or infinite.
    """
    dtype = dtype_of_beliefs(run.model) or torch.get_default_dtype()
    if dtype not in (torch.float32, torch.float64):
        raise ConfigError(f"the weights are {dtype}; a program needs float32 or float64: write model.float()")
    for name, weight in run.model.network.state_dict().items():
        if weight.is_floating_point() and not bool(weight.isfinite().all()):
            raise NonFiniteError(f"the weight '{name}' has numbers that are not finite")
    return dtype


def _conditions(run: Run) -> dict[str, Input]:
    """The inputs for the conditions that the network reads."""
    found, shapes = {}, run.model.signature.shapes
    for name in run.model.conditions or ():
        seen = (run.seen or {}).get(name)
        shape = seen.shape if seen else shapes.get(name, ())
        floats = seen.dtype.startswith("float") if seen else name in shapes
        found[name] = Input("condition", shape, torch.float32 if floats else torch.int64)
    return found


def _names(run: Run, sampler: Sampler[Any]) -> dict[str, str]:
    """Names of the family, the network and the sampler."""
    registry, parts = default_registry(), {"family": run.model.family, "network": run.model.builder, "sampler": sampler}
    return {kind: registry.name_of(kind, type(part)) for kind, part in parts.items()}


def _text(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _described(program: Program, file: str) -> dict[str, Any]:
    inputs = {
        name: {"kind": one.kind, "shape": one.shape, "dtype": _text(one.dtype)} for name, one in program.inputs.items()
    }
    return {"file": file, "inputs": inputs, "outputs": list(program.outputs)}


def _pt2(program: Program) -> bytes:
    """The program as a .pt2 file."""
    file = io.BytesIO()
    torch.export.save(program.traced, file)
    return file.getvalue()


def _onnx(program: Program) -> bytes:
    """The program as an .onnx file."""
    import onnx

    traced = program.traced
    if any(node.target in _WITHOUT_ONNX for node in traced.graph.nodes):
        traced = traced.run_decompositions(_WITHOUT_ONNX)
    translated = torch.onnx.export(
        traced,
        input_names=list(program.inputs),
        output_names=[f"{name}.next" for name in program.outputs],  # none may have the name of an input
        dynamo=True,
        verbose=False,
    )
    if translated is None:
        raise ConfigError("torch.onnx.export returned nothing")
    proto = translated.model_proto
    onnx.checker.check_model(proto)
    content: bytes = proto.SerializeToString()
    return content


_SAVE = {"onnx": _onnx, "torch-export": _pt2}


def _searchsorted(
    sequence: Tensor,
    values: Tensor,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Tensor | None = None,
) -> Tensor:
    """torch.searchsorted by counting, for which ONNX has operators."""
    below = sequence.unsqueeze(-2) <= values.unsqueeze(-1) if right else sequence.unsqueeze(-2) < values.unsqueeze(-1)
    return below.sum(-1)


def _nextafter(x: Tensor, towards: Tensor) -> Tensor:
    """torch.nextafter of numbers that are neither 0 nor subnormal: the change rounds to one unit in the last place."""
    unit = torch.finfo(x.dtype).eps / 2.0
    return x + (towards - x).sign() * (x.abs() * (unit * (1.0 + 2.0 * unit)))


def _log_ndtr(z: Tensor) -> Tensor:
    """torch.special.log_ndtr within 2e-7, also in the lower tail.

    Source: Press et al., Numerical Recipes, section 6.2: a Chebyshev fit of erfc.
    """
    x = z.abs() * math.sqrt(0.5)
    t = 1.0 / (1.0 + 0.5 * x)
    fit = torch.zeros_like(t)
    for number in _ERFC:
        fit = fit * t + number
    log_erfc = t.log() - x.square() + fit
    return torch.where(z < 0.0, log_erfc - math.log(2.0), torch.log1p(-0.5 * log_erfc.exp()))


_ERFC = (
    *(0.17087277, -0.82215223, 1.48851587, -1.13520398, 0.27886807),
    *(-0.18628806, 0.09678418, 0.37409196, 1.00002368, -1.26551223),
)


def _expm1(x: Tensor) -> Tensor:
    """torch.expm1 without a difference."""
    return (0.5 * x).tanh() * (x.exp() + 1.0)


# Operators of torch that torch.onnx does not translate, or not with all digits, by others.
_WITHOUT_ONNX = {
    torch.ops.aten.searchsorted.Tensor: _searchsorted,
    torch.ops.aten.nextafter.default: _nextafter,
    torch.ops.aten.special_log_ndtr.default: _log_ndtr,
    torch.ops.aten.expm1.default: _expm1,
}


@contextmanager
def _quiet() -> Iterator[None]:
    """Scope without the messages of torch's exporter about itself, and the graphs that it prints."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            for category in (FutureWarning, DeprecationWarning):
                warnings.simplefilter("ignore", category)
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def _explained(run: Run, sampler: Sampler[Any]) -> Iterator[None]:
    """Scope in which every error of the exporter becomes a ConfigError that says which part it is about."""
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:
        names = _names(run, sampler)
        cause: BaseException = error
        while isinstance(error, torch.onnx.errors.OnnxExporterError) and cause.__cause__ is not None:
            cause = cause.__cause__
        reason = str(cause).strip().split("\n")[0][:300] or type(error).__name__
        where = _place(error)
        advice = "share the saved model: leave out --format"
        if names["sampler"] != "ancestral":
            advice = "write sampler='ancestral', on the command line --sampler ancestral"
        raise ConfigError(
            f"the sampler {names['sampler']} of {names['family']} with the network {names['network']} cannot become a "
            f"program: {reason}{where}; {advice}"
        ) from error


def _place(error: BaseException) -> str:
    """The last line on the way to an error that is neither of torch nor of the exporter.

    Nothing where that line raises an error of ours, which names what it is about.
    """
    where, tracing = "", {"torch", "onnx", "onnxscript", "onnx_ir", "contextlib"}
    for frame, line in traceback.walk_tb(error.__traceback__):
        module = frame.f_globals.get("__name__", "")
        if module.startswith(__package__) or frame.f_code.co_filename.startswith("<"):
            continue
        if module.split(".")[0] not in tracing:
            text = linecache.getline(frame.f_code.co_filename, line).strip()
            where = "" if text.startswith("raise ") else f" (in {module}, line {line}: {text})"
    return where


def _readme(title: str, description: dict[str, Any]) -> str:
    onnx = description["format"] == "onnx"
    needs = "`pip install numpy onnxruntime`" if onnx else "`pip install numpy torch`"
    conditions = "".join(
        f"\n- `--condition {name}=...`: "
        + (f"one of {', '.join(one['names'])}" if one["names"] else f"{one['dtype']} of shape {list(one['shape'])}")
        + (", or `none`" if one["default"] is not None else ", as JSON or as a `.npy` file with a row for each sample")
        for name, one in description["conditions"].items()
    )
    samples = {"text": "samples.txt", "lines": "samples.txt"}.get(description["codec"]["name"], "samples.npy")
    start, step = (description[name]["file"] for name in ("start", "step"))
    return f"""# {title}

A Bayesian flow network as {"ONNX" if onnx else "torch.export"} programs. It is sampled without bfn-toolkit:
{needs}, then

    python sample.py -n 16 --seed 0 --out {samples}
{conditions}

`{start}` makes the first state of the sampler from random numbers. `{step}` makes the
next state, and a draw `x` of the output distribution, which at the last time is the sample. `sampler.json` lists their
inputs and outputs. The sampler is {description["sampler"]} in {description["n_steps"]} steps, the family
{description["family"]}, the network {description["network"]}.

Samples are in the units of the data for texts, images and scaled numbers. Others are the numbers of the model, which
bfn-toolkit {description["bfn-toolkit"]} decodes with the codec in `sampler.json`.
"""
