"""Checkpoints of other programs: their weights, imported into a run directory.

A ``.pt`` file is a pickle, and a pickle is a program.  It is read by ``torch.load(weights_only=True)`` and by nothing
else, after a check that it takes no more memory than its own size.  A ``.safetensors`` file is data.

The weights may be at the top of the file or below names such as "model" or "ema", with or without a prefix such as
"module.".  A table of tensors is imported if all its names, shapes and dtypes are those of the network, or those of
another program's form of it (:meth:`~bfn_toolkit.NetworkBuilder.foreign_names`).
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.serialization import get_unsafe_globals_in_checkpoint

from bfn_toolkit.config.experiment import Experiment
from bfn_toolkit.config.json_values import codec_to_json
from bfn_toolkit.errors import ConfigError, PluginError, RunDirectoryError
from bfn_toolkit.registry.registry import default_registry
from bfn_toolkit.runs.blueprints import Size
from bfn_toolkit.runs.directory import check_out, describe, make_folder, start_run
from bfn_toolkit.runs.model_files import save_model
from bfn_toolkit.sharing.pretrained import Architecture
from bfn_toolkit.storage.files import MAX_JSON, read_regular, shown_size
from bfn_toolkit.storage.locks import locked
from bfn_toolkit.storage.safetensors_files import State, check_fit, cpu_state, loads, shape_mismatches

TORCH = (2, 10)  # in earlier versions, a file could write past the memory of a tensor
COPIES = 16  # weights, averages and the moments of an optimiser, in double precision
MIN_ROWS = 64 * 2**20  # size in bytes that is always accepted
DEPTH = 4  # of nested tables
AVERAGE = re.compile(r"(^|[._])(ema|swa|averag)", re.IGNORECASE)
_LEGACY = b"\x80\x02\x8a\x0a"  # start of a file in the format before zip
_ZIP, _ZIP_END = b"PK\x03\x04", b"PK\x05\x06"
# Names that torch permits although they allocate memory of any size: with torch 2.13, a bytearray in a 244-byte file
# takes 2 GB, and such a tensor exposes uninitialised memory.
_ALLOCATES = re.compile(rb"c(?:builtins|__builtin__|torch[.\w]*)\n(bytearray|\w*Tensor|UntypedStorage)\n")
Names = Mapping[str, str | None]  # of tensors: in the file to in the network, or None for those that are not needed
LEAST = 64  # bytes that each tensor takes in a file
LISTED = 100  # largest number of dropped names in model.json


@attrs.frozen(eq=False)
class Candidate:
    """Tensors that may be the weights.

    Arguments:
        key: Place in the file: dotted names, and the prefix that the tensors share.
        names: The network's names of its tensors, by those expected in the file (:data:`Names`).
        state: The tensors by their names in the file, without that prefix and without those that are not needed.
        mismatches: Differences from the network, one line each.
        cast: Names of tensors that are cast to the network's dtype.
    """

    key: str
    names: Names
    state: State
    mismatches: tuple[str, ...]
    cast: tuple[str, ...]


@attrs.frozen
class Selection:
    """Choice of weights in a file, and their permitted differences from the network's.

    Arguments:
        key: Place in the file; by default that of the weights that fit, of several the moving average.
        cast: Whether to cast weights of another floating-point dtype.
        drop: Patterns (``*.num_batches_tracked``) for names of tensors to leave out.
    """

    key: str | None = None
    cast: bool = False
    drop: Sequence[str] = ()


@attrs.frozen(eq=False)
class Imported:
    """The outcome of an import.

    Arguments:
        key: Key of the imported weights.
        others: Keys of others that also fit.
        kept: Names of the imported tensors.
        cast: Names of imported tensors that were cast.
        dropped: Names of everything else in the file.
    """

    key: str
    others: tuple[str, ...]
    kept: tuple[str, ...]
    cast: tuple[str, ...]
    dropped: tuple[str, ...]


def import_checkpoint(
    path: str | Path,
    out: str | Path,
    experiment: Experiment,
    select: Selection | None = None,
    *,
    max_size: int | None = None,
    force: bool = False,
) -> Imported:
    """Makes a run directory from another program's checkpoint; everything is checked before anything is written.

    Arguments:
        path: A ``.pt`` file of ``torch.save``, or a ``.safetensors`` file; the content decides, not the name.
        out: Run directory to make.
        experiment: Experiment with the family and the network of the weights.
        select: Choice of weights.
        max_size: Largest size of the file in bytes; by default 16 times that of the network, and at least 64 MB.
        force: Whether to replace the run that is in ``out``.
    Raises:
        ConfigError: If ``out`` is taken, torch is too old, or it is not clear which weights are meant.
        PluginError: If the network's foreign names are not those of its tensors.
        RunDirectoryError: If the file is not what it claims to be, or holds no weights that fit.
    """
    path, folder, select = Path(path), Path(out), select or Selection()
    check_out(folder, force=force)
    within = _size_of(path)
    network = Architecture(experiment.family, experiment.network).build(torch.float32, within=[within])
    expected: State = network.state_dict()
    size = sum(value.numel() * value.element_size() for value in expected.values())
    content = read_regular(path, max_size or max(MIN_ROWS, COPIES * size))
    found = read_foreign(content, path)
    namings = _namings(experiment, expected)
    candidates = [one for names in namings for one in _candidates(found, expected, names, select)]
    # The state of an optimiser has hundreds of tables, but none of the network's names.
    candidates = [one for one in candidates if one.state.keys() & one.names.keys()] or candidates[:5]
    chosen, others = _choose(candidates, select.key, path)
    state = _taken(chosen, expected, path)
    network.load_state_dict(state)
    taken = {id(value) for value in chosen.state.values()}
    dropped = tuple(name for name, value in _contents(found) if id(value) not in taken)
    imported = Imported(chosen.key, others, tuple(state), chosen.cast, dropped)
    _write(folder, experiment, network, imported, path, content)
    return imported


def _size_of(path: Path) -> Size:
    """Bounds of the weights in a file: a network of more cannot be theirs, even in a smaller dtype."""
    try:
        size = path.lstat().st_size
    except OSError:  # which is told when it is read
        size = 0
    return Size(path, 8 * size, size // LEAST)


def read_foreign(content: bytes, path: Path) -> Any:
    """Reads a ``.pt`` or ``.safetensors`` file.

    Arguments:
        content: The file.
        path: Name of the file, for messages.
    Raises:
        ConfigError: If it is a pickle and torch is too old to read it safely.
        RunDirectoryError: If it is neither, damaged, or asks for more than tensors.
    """
    if content[:4] not in (_ZIP, _LEGACY):
        if content[:1] == b"\x80" and content[8:9] != b"{":
            raise _refused(path, "it is a pickle that torch.save did not write")
        return loads(content, path)
    if _version(torch.__version__) < TORCH:
        wanted = ".".join(map(str, TORCH))
        raise ConfigError(
            f"{path} is a pickle, which torch reads safely since {wanted}; this is torch {torch.__version__}; "
            f'write: pip install "torch>={wanted}", or convert the file to .safetensors'
        )
    if found := _ALLOCATES.search(content):
        raise _refused(path, f"it contains more than tensors: {found[1].decode()}")
    if content[:4] == _ZIP:
        _check_archive(content, path)
    try:
        if content[:4] == _ZIP and (unsafe := get_unsafe_globals_in_checkpoint(io.BytesIO(content))):
            raise _refused(path, f"it contains more than tensors: {', '.join(_word(name)[:80] for name in unsafe[:3])}")
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except RunDirectoryError:
        raise
    except Exception as error:  # torch's text is left out, because it advises loading the file without protection
        raise _refused(path, f"torch cannot read it as weights ({type(error).__name__})") from error


def _refused(path: Path, why: str) -> RunDirectoryError:
    return RunDirectoryError(
        f"{path} is not imported, and nothing in it was executed: {why}. Where it was made, write "
        "torch.save(model.state_dict(), FILE), or safetensors.torch.save_file(model.state_dict(), FILE)"
    )


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text)[:2])


def _check_archive(content: bytes, path: Path) -> None:
    """Refuses an archive that is damaged, or unpacks to more than its size.

    torch 2.13 notices the latter only after unpacking 2 GB, finds entries by names in which case does not count, and
    reads no checksum.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            _check_entries(entries, content, path)
            damaged = archive.testzip()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, OSError) as error:
        raise _refused(path, f"it is a damaged archive ({error})") from None
    if damaged is not None:
        raise _refused(path, f"it is damaged: {_word(damaged)} does not match its checksum")


def _check_entries(entries: Sequence[zipfile.ZipInfo], content: bytes, path: Path) -> None:
    if content[-22:-18] != _ZIP_END:  # other readers might read another archive after the end
        raise _refused(path, "something follows the end of its archive")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise _refused(path, "its entries are compressed, which torch.save does not do")
    if sum(entry.file_size for entry in entries) > len(content):
        raise _refused(path, "it claims to hold more than it has")
    names = [entry.filename.lower() for entry in entries]
    if len(set(names)) < len(names):
        raise _refused(path, "two of its entries have the same name")
    pickled = max((e.file_size for e, name in zip(entries, names, strict=True) if name.endswith(".pkl")), default=0)
    if pickled > MAX_JSON:  # a byte of it can become an object of 64 bytes
        raise _refused(path, f"its pickle has {shown_size(pickled)}, more than {shown_size(MAX_JSON)}")


def _walk(value: Any, key: str = "", depth: int = 0, seen: set[int] | None = None) -> Iterator[tuple[str, Any]]:
    """Tables by dotted names, each once, because a table may contain itself."""
    seen = set() if seen is None else seen
    if isinstance(value, Mapping) and depth <= DEPTH and id(value) not in seen:
        seen.add(id(value))
        yield key, value
        for name, part in value.items():
            yield from _walk(part, f"{key}.{_word(name)}" if key else _word(name), depth + 1, seen)


def _word(name: object) -> str:
    """Printable form of a name that is not trusted."""
    text = name if isinstance(name, str) else repr(name)
    return (text if text.isprintable() else ascii(text))[:200]


def _contents(found: Any) -> Iterator[tuple[str, Any]]:
    """Everything in the tables that is not a table, by dotted names."""
    for key, table in _walk(found):
        for name, part in table.items():
            if not isinstance(part, Mapping):
                yield f"{key}.{_word(name)}" if key else _word(name), part


def _namings(experiment: Experiment, expected: State) -> list[Names]:
    """Names of the network's tensors in a file: its own, and those of another program if it has any."""
    own: Names = {name: name for name in expected}
    foreign: Names = experiment.network.foreign_names()
    targets = [name for name in foreign.values() if name is not None]
    if foreign and sorted(targets) != sorted(expected):
        wrong = ", ".join(sorted(set(targets) ^ set(expected))[:5]) or "a name occurs twice"
        raise PluginError(f"foreign_names of {type(experiment.network).__name__} are not those of its tensors: {wrong}")
    return [own, foreign] if foreign else [own]


def _candidates(found: Any, expected: State, names: Names, select: Selection) -> Iterator[Candidate]:
    wanted = {theirs: expected[ours] for theirs, ours in names.items() if ours is not None}
    strict = wanted.keys() == expected.keys()
    for key, table in _walk(found):
        named = {_word(name): value for name, value in table.items() if isinstance(value, Tensor)}
        # torch.compile inserts this anywhere in a name.
        tensors = {
            name.replace("_orig_mod.", ""): value
            for name, value in named.items()
            if not any(fnmatchcase(name, pattern) for pattern in select.drop)
        }
        if not tensors:
            continue
        for prefix in _prefixes(tensors, wanted):
            inside = {name.removeprefix(prefix): tensors[name] for name in tensors if name.startswith(prefix)}
            state = {name: value for name, value in inside.items() if names.get(name, name) is not None}
            casts = tuple(
                n for n, value in state.items() if select.cast and n in wanted and _castable(value, wanted[n])
            )
            # On the meta device: a tensor may claim any size.
            dtypes = {name: wanted[name].dtype if name in casts else value.dtype for name, value in state.items()}
            shapes = {name: value.shape for name, value in state.items()}
            if not strict:
                shapes |= {n: wanted[n].shape for n in shapes.keys() & wanted if _squeezed(shapes[n], wanted[n].shape)}
            forms = {name: torch.empty(shapes[name], dtype=dtypes[name], device="meta") for name in state}
            wrong = shape_mismatches(wanted, forms)
            place = ".".join(filter(None, (key, prefix.removesuffix("."))))
            yield Candidate(place or "(top)", names, state, tuple(sorted(wrong)), casts)


def _squeezed(a: torch.Size, b: torch.Size) -> bool:
    """Whether two shapes differ by axes of size 1 at most."""
    return [size for size in a if size != 1] == [size for size in b if size != 1]


def _castable(value: Tensor, like: Tensor) -> bool:
    return value.is_floating_point() and like.is_floating_point() and value.dtype != like.dtype


def _prefixes(tensors: Mapping[str, Tensor], wanted: State) -> list[str]:
    """Prefixes under which the file has one of the network's three longest names."""
    some = sorted(wanted, key=len, reverse=True)[:3]
    found = {name.removesuffix(end) for end in some for name in tensors if name.endswith(end)}
    return sorted(prefix for prefix in found if prefix == "" or prefix.endswith(".")) or [""]


def _choose(candidates: Sequence[Candidate], key: str | None, path: Path) -> tuple[Candidate, tuple[str, ...]]:
    """Returns the weights to import, and the keys of others that fit."""
    keys = ", ".join(dict.fromkeys(candidate.key for candidate in candidates)) or "none"
    if key is not None:
        candidates = [candidate for candidate in candidates if candidate.key == key]
        if not candidates:
            raise ConfigError(f"{path} holds no weights under '{key}'; expected one of: {keys}")
    if not candidates:
        raise RunDirectoryError(f"{path} holds no table of tensors")
    fitting = [candidate for candidate in candidates if not candidate.mismatches]
    if not fitting:
        nearest = min(candidates, key=lambda candidate: len(candidate.mismatches))
        dtypes = any(re.search(r": torch\.\w*float\d+ .*expected torch\.\w*float", line) for line in nearest.mismatches)
        hint = " --cast casts floating-point dtypes." if dtypes else ""
        hint += f" Weights are looked for under: {keys}." if len(candidates) > 1 else ""
        try:
            check_fit(path, list(nearest.mismatches))
        except RunDirectoryError as error:
            raise RunDirectoryError(f"{error} (under '{nearest.key}').{hint}") from None
    averages = [candidate for candidate in fitting if AVERAGE.search(candidate.key)] or fitting
    if len(averages) > 1:
        choices = " or ".join(f"--key {candidate.key}" for candidate in averages)
        raise ConfigError(f"{path} holds several weights that fit; write {choices}")
    return averages[0], tuple(candidate.key for candidate in fitting if candidate is not averages[0])


def _taken(chosen: Candidate, expected: State, path: Path) -> dict[str, Tensor]:
    """Copies the weights after checking facts that a header cannot tell."""
    for name, value in chosen.state.items():
        plain = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
        if not plain or value.untyped_storage().nbytes() < value.numel() * value.element_size():
            raise RunDirectoryError(f"{path}: {name} claims {value.numel():,} numbers, but holds fewer")
    own = {str(chosen.names[name]): value for name, value in chosen.state.items()}
    cast = {name: value.to(expected[name].dtype).reshape(expected[name].shape) for name, value in own.items()}
    bad = [name for name, value in cast.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    check_fit(path, [f"{name}: values are not finite" for name in bad])
    return cpu_state(cast)


def _write(
    folder: Path, experiment: Experiment, network: nn.Module, imported: Imported, path: Path, content: bytes
) -> None:
    """Writes the run directory, ``model.json`` last: without it, there is no model."""
    source = {
        "file": path.name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "key": imported.key,
        "cast": imported.cast,
        "dropped": imported.dropped[:LISTED],
    }
    make_folder(folder)
    with locked(folder):
        start_run(folder, experiment)
        codec = codec_to_json(experiment.dataset.codec, default_registry())
        save_model(folder, network.state_dict(), {**describe(experiment, 0), "codec": codec, "imported": source})
