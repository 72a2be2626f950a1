"""Tensors in files: all that is written is read again, and what could not be read again is not written."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bfn_toolkit.errors import ConfigError, NonFiniteError, RunDirectoryError
from bfn_toolkit.storage.safetensors_files import check_savable, dumps, loads

DTYPES = sorted({value for value in vars(torch).values() if isinstance(value, torch.dtype)}, key=str)
NEEDED = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.float8_e4m3fn, torch.bool),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64),
]


def of_dtype(dtype: torch.dtype) -> Tensor:
    """Eight numbers of a dtype, of which all bytes are 1; without memory where torch does not make them."""
    try:
        return torch.ones(8 * dtype.itemsize, dtype=torch.uint8).view(dtype)
    except (NotImplementedError, RuntimeError):
        return torch.empty(8, dtype=dtype, device="meta")


@pytest.mark.parametrize("dtype", NEEDED, ids=str)
def test_what_is_written_is_read_again(dtype: torch.dtype) -> None:
    state = {"a": of_dtype(dtype), "b": torch.zeros(2, 0, dtype=dtype), "c": torch.ones((), dtype=dtype)}
    check_savable(state)
    found = loads(dumps(state), Path("x"), state)
    for name, value in state.items():
        assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape)
    assert torch.equal(found["a"].view(torch.uint8), state["a"].view(torch.uint8))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_cannot_be_read_again_is_not_written(dtype: torch.dtype) -> None:
    """Among these are float8_e8m0fnu and float4, which safetensors 0.8 writes and cannot read."""
    state = {"a": of_dtype(dtype)}
    try:
        content = dumps(state, finite=False)
    except ConfigError:
        assert dtype not in NEEDED
        with pytest.raises(ConfigError, match=f"network: a is {dtype}"):
            check_savable(state)
    else:
        assert loads(content, Path("x"), state)["a"].dtype == dtype


def test_weights_of_a_lazy_layer_are_refused_before_they_are_trained() -> None:
    with pytest.raises(ConfigError, match=r"last\.(weight|bias) is of a lazy layer.*nn\.Linear"):
        check_savable(nn.ModuleDict({"last": nn.LazyLinear(1)}).state_dict())


def test_a_sparse_tensor_is_refused() -> None:
    with pytest.raises(ConfigError, match="sparse_coo"):
        dumps({"a": torch.eye(3).to_sparse()})


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.float8_e5m2, torch.float8_e4m3fn])
def test_nan_of_any_dtype_is_neither_written_nor_read(dtype: torch.dtype) -> None:
    state = {"a": torch.tensor([1.0, torch.nan]).to(dtype)}
    with pytest.raises(NonFiniteError, match="a"):
        dumps(state)
    with pytest.raises(RunDirectoryError, match="a: 1 values are not finite"):
        loads(dumps(state, finite=False), Path("x"), state)
    loads(dumps(state, finite=False), Path("x"), state, allow_nonfinite=True)


def entry(shape: list[int], end: int) -> str:
    return f'"a":{{"dtype":"U8","shape":{shape},"data_offsets":[0,{end}]}}'


HOSTILE = {
    "many tensors": b"{"
    + b",".join(b'"%x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % i for i in range(250_000))
    + b"}",
    "spaces": b'{"a":' + b" " * 17 * 2**20 + b"1}",
    "a name twice": f"{{{entry([0], 0)},{entry([0], 0)}}}".encode(),
    "depth": b'{"a":' + b"[" * 2**23,
    "a long integer": b'{"a":' + b"9" * 2**23 + b"}",
    "an absurd shape": f"{{{entry([2**43], 2**43)}}}".encode(),
}


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's figures of memory")
def test_a_hostile_header_costs_less_than_a_second_and_200_mb(tmp_path: Path) -> None:
    for name, header in HOSTILE.items():
        (tmp_path / name).write_bytes(len(header).to_bytes(8, "little") + header)
    program = """
        import resource, sys, time
        from pathlib import Path
        from bfn_toolkit.errors import RunDirectoryError
        from bfn_toolkit.storage.safetensors_files import loads
        for path in map(Path, sys.argv[1:]):
            content = path.read_bytes()
            before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
            try:
                loads(content, path)
            except RunDirectoryError as error:
                assert "is not a safetensors file" in str(error)
                assert len(str(error)) < 1000
                after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                print(time.process_time() - start, (after - before) / 1000, path.name)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), *(str(tmp_path / name) for name in HOSTILE)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [line.split(" ", 2) for line in done.stdout.splitlines()]
    assert [name for _, _, name in lines] == list(HOSTILE)
    assert all(float(seconds) < 1.0 and float(megabytes) < 200.0 for seconds, megabytes, _ in lines), lines
