"""Draws samples of an exported model, with numpy and a runtime: onnxruntime for .onnx files, torch for .pt2 files.

    python sample.py -n 16 --seed 0 --out samples.npy

Needs the files beside it, and nothing else of the program that wrote them.
"""

from __future__ import annotations

import argparse
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Arrays = Mapping[str, Any]  # arrays of numpy by name
Noise = Callable[[str, tuple[int, ...], Any], Any]  # from a kind, a shape and a dtype to random numbers

HERE = pathlib.Path(__file__).resolve().parent


class Program:
    """A program of the model: a function from arrays to arrays, by name.

    Arguments:
        description: Its file, inputs and outputs, as sampler.json has them.
    """

    def __init__(self, description: Mapping[str, Any]) -> None:
        self.inputs, self.outputs = description["inputs"], description["outputs"]
        self.run: Callable[[Arrays], Sequence[Any]]
        path = str(HERE / description["file"])
        if path.endswith(".onnx"):
            import onnxruntime

            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            read = {one.name for one in session.get_inputs()}
            self.run = lambda given: session.run(None, {k: v for k, v in given.items() if k in read})
        else:
            import torch

            program = torch.no_grad()(torch.export.load(path).module())
            self.run = lambda given: [
                value.numpy() for value in program(*(torch.from_numpy(given[name]) for name in self.inputs))
            ]

    def __call__(self, given: Arrays, noise: Noise, wanted: str) -> dict[str, Any]:
        """Outputs by name.

        Arguments:
            given: Inputs by name, but for the random numbers.
            noise: Function from a kind, a shape and a dtype to random numbers.
            wanted: Beginning of the names of the random numbers that have an effect; others are 0.
        """
        rows, arrays = len(given["rows"]), dict(given)
        for name, one in self.inputs.items():
            if one["kind"] in ("normal", "uniform", "exponential"):
                shape, dtype = (rows, *one["shape"]), np.dtype(one["dtype"])
                arrays[name] = noise(one["kind"], shape, dtype) if name.startswith(wanted) else np.zeros(shape, dtype)
        return dict(zip(self.outputs, self.run({name: arrays[name] for name in self.inputs}), strict=True))


def random_numbers(rng: np.random.Generator) -> Noise:
    """A function from a kind, a shape and a dtype to random numbers of a generator of numpy."""
    draws: dict[str, Any] = {
        "normal": rng.standard_normal,
        "uniform": rng.random,
        "exponential": rng.standard_exponential,
    }
    return lambda kind, shape, dtype: draws[kind](shape, dtype)


def sample(
    programs: Mapping[str, Program], model: Mapping[str, Any], rows: int, noise: Noise, conditions: Arrays
) -> dict[str, Any]:
    """Samples of the model, by part: the loop of the sampler.

    Arguments:
        programs: The programs "start" and "step".
        model: Content of sampler.json.
        rows: Number of samples.
        noise: Function from a kind, a shape and a dtype to random numbers.
        conditions: Arrays by name, with a row for each sample.
    """
    times = np.array(model["times"])
    given = {"rows": np.zeros(rows, model["dtype"]), **conditions}
    state = programs["start"](given, noise, "noise")
    last = len(times) - 1
    for i in range(model["first"], last + 1):
        state.update(given, s=times[i], t=times[min(i + 1, last)])
        state = programs["step"](state, noise, "noise" if i < last else "last")
    return {part: state[name] for part, name in model["samples"].items()}


def conditions_of(model: Mapping[str, Any], words: Sequence[str], n: int) -> dict[str, Any]:
    """Arrays of the conditions by name, from words such as label=3 or text=embeddings.npy."""
    values = dict(word.split("=", 1) for word in words)
    arrays = {}
    for name, one in model["conditions"].items():
        if name not in values and one["default"] is None:
            raise SystemExit(f"the model needs the condition {name}; write --condition {name}=VALUE or {name}=FILE.npy")
        text = values.pop(name, one["default"])
        names = one["names"]
        if isinstance(text, str) and text.endswith(".npy"):
            value = np.load(text, allow_pickle=False)
        elif text in names:
            value = np.array(names.index(text))
        else:
            value = np.array(one["default"] if text == "none" else _number(name, text, names))
        arrays[name] = np.ascontiguousarray(np.broadcast_to(value, (n, *one["shape"])).astype(one["dtype"]))
    if values:
        raise SystemExit(f"the model reads no condition {next(iter(values))}; it reads {', '.join(arrays) or 'none'}")
    return arrays


def _number(name: str, text: Any, names: Sequence[str]) -> Any:
    """A value that is written as JSON: a number, or a list of numbers."""
    try:
        return json.loads(str(text))
    except ValueError:
        expected = f"one of {', '.join(names)}" if names else "a number, a list in JSON or a .npy file"
        raise SystemExit(f"--condition {name}={text}: expected {expected}") from None


def decoded(x: Any, codec: Mapping[str, Any]) -> Any:
    """Samples in the units of the data, where that is simple: texts, levels of pixels, scaled numbers."""
    name = codec["name"]
    if name in ("text", "lines"):
        return ["".join(codec["alphabet"][i] for i in row) for row in x]
    if name == "image":
        k = codec["levels"]
        levels = x if codec["pixels"] == "classes" else np.rint(((x.astype(float) + 1.0) * k - 1.0) / 2.0)
        return np.clip(levels, 0, k - 1).astype(np.uint8 if k <= 256 else np.int64)
    if name == "table":
        shift, scale = (np.array(codec[key]) for key in ("shift", "scale"))
        site = x.shape[1:]
        return x.astype(float) * (scale.reshape(site) if scale.size > 1 else scale) + (
            shift.reshape(site) if shift.size > 1 else shift
        )
    return x


def write(path: pathlib.Path, samples: Arrays, codec: Mapping[str, Any]) -> None:
    """Writes samples by part: .txt for texts, .csv for flat numbers, .npz, or .npy for data without parts."""
    x: Any = decoded(samples[""], codec) if list(samples) == [""] else samples
    if path.suffix == ".npz" or isinstance(x, dict):
        np.savez(path.with_suffix(".npz"), **(x if isinstance(x, dict) else {"x": x}))
    elif path.suffix == ".txt" and isinstance(x, list):
        path.write_text("".join(text.replace("\\", "\\\\").replace("\n", "\\n") + "\n" for text in x), encoding="utf-8")
    elif path.suffix == ".csv" and not isinstance(x, list) and x.ndim == 2:
        names = codec.get("names") or [f"x{i + 1}" for i in range(x.shape[1])]
        np.savetxt(path, x, "%.9g", ",", header=",".join(names), comments="", encoding="utf-8")
    elif path.suffix == ".npy":
        np.save(path, samples[""] if isinstance(x, list) else x)
    else:
        raise SystemExit(f"cannot write {path}: write .npy, .txt for texts, .csv for flat numbers, or .npz")


def main() -> None:
    """The command."""
    model = json.loads((HERE / "sampler.json").read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("-n", type=int, default=16, help="number of samples [16]")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random numbers [0]")
    parser.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path("samples.npy"), help="file: .npy, .txt, .csv or .npz"
    )
    parser.add_argument(
        "--condition",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="value of a condition, or a .npy file (repeatable)",
    )
    parser.add_argument("--batch", type=int, default=256, help="samples that are drawn together [256]")
    options = parser.parse_args()
    if options.n < 1 or options.batch < 1:
        raise SystemExit("-n and --batch must be at least 1")
    programs = {name: Program(model[name]) for name in ("start", "step")}
    conditions = conditions_of(model, options.condition, options.n)
    pieces = []
    for first in range(0, options.n, options.batch):
        rows = min(options.batch, options.n - first)
        noise = random_numbers(np.random.default_rng([options.seed, first]))
        own = {name: value[first : first + rows] for name, value in conditions.items()}
        pieces.append(sample(programs, model, rows, noise, own))
    samples = {part: np.concatenate([piece[part] for piece in pieces]) for part in pieces[0]}
    try:
        write(options.out, samples, model["codec"])
    except OSError as error:
        raise SystemExit(f"cannot write {options.out}: {error.strerror}") from None


if __name__ == "__main__":
    main()
