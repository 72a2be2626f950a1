"""Arrays by name, as .npz or .safetensors."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save as save_tensors
from torch import Tensor

from bfn_toolkit.errors import ConfigError
from bfn_toolkit.storage.files import write_atomically

FORMATS = (".npz", ".safetensors")


def check_format(path: Path) -> None:
    """Checks that arrays can be written under this name.

    Raises:
        ConfigError: If the ending is neither .npz nor .safetensors.
    """
    if path.suffix not in FORMATS:
        raise ConfigError(
            f"cannot tell the format of '{path.name}'; end the name of a trajectory in {', '.join(FORMATS)}"
        )


def write_arrays(path: Path, arrays: Mapping[str, Tensor]) -> None:
    """Writes arrays by name, as .npz or .safetensors.

    Raises:
        ConfigError: If the ending is neither of these.
        ResourceError: If the file cannot be written.
    """
    check_format(path)
    if path.suffix == ".safetensors":
        content = save_tensors({name: array.contiguous() for name, array in arrays.items()})
    else:
        buffer, columns = io.BytesIO(), dict[str, Any]()
        columns |= {name: array.numpy() for name, array in arrays.items()}
        # No allow_pickle=False: numpy 2.1 writes it as an array, and tensors leave nothing to pickle.
        np.savez(buffer, **columns)
        content = buffer.getvalue()
    write_atomically(path, content)
