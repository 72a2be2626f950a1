"""No file can make the toolkit execute code: what could do so does not stand in the source."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*(ROOT / "bfn_toolkit").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")])
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml"}
CALLS = {"eval", "exec", "torch.hub.load", "np.loads", "os.system", "os.popen"}


def dangers(source: str) -> Iterator[str]:
    """What of a source could execute what stands in a file."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            files = module.startswith("torch.distributed.checkpoint") and not module.endswith(".state_dict")
            if module.split(".")[0] in MODULES or files:
                yield module
        elif isinstance(node, ast.Call):
            yield from _dangers_of_call(node)


def _dangers_of_call(call: ast.Call) -> Iterator[str]:
    name = ast.unparse(call.func)
    options = {option.arg: ast.unparse(option.value) for option in call.keywords}
    if name in CALLS:
        yield name
    if name == "torch.load" and options.get("weights_only") != "True":
        yield "torch.load without weights_only=True"
    if options.get("weights_only") == "False":
        yield "weights_only=False"
    if name in ("np.load", "numpy.load") and options.get("allow_pickle") != "False":
        yield "np.load without allow_pickle=False"
    if options.get("allow_pickle", "False") != "False":
        yield "allow_pickle"
    if options.get("shell", "False") != "False":
        yield "shell"


# Files that open others by themselves, and why.
OPENS = {
    "untrusted.py": "the one place",
    "storage/files.py": "writes, and reads in place",
    "storage/folders.py": "writes what nobody else knows the name of",
    "runs/sample_files.py": "writes what it has just removed",
    "cli/entry.py": "the null device",
    "cli/results.py": "a descriptor",
    "registry/scaffold.py": "its own templates; and it writes what it has just removed",
    "config/layers.py": "its own presets",
    "sharing/standalone.py": "runs without the toolkit, and reads the files beside it",
    "training/dry_run.py": "the file of the system about this process",
    "cli/memory.py": "files of the system about memory",
    "reports/animation.py": "a temporary file of its own",
    "bfn_table/table_model.py": "writes what it has just removed",
}
METHODS = {"read_bytes", "read_text", "write_bytes", "write_text"}
OTHERS = {"os", "Run", "Image", "archive"}  # whose open() takes no path of a stranger's


def opened(source: str) -> Iterator[str]:
    """Calls by which a source opens a file by itself, instead of by open_regular."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        owner, _, method = ast.unparse(node.func).rpartition(".")
        if (method in METHODS and owner) or (method == "open" and owner not in OTHERS):
            yield f"{owner}.{method}"
        if f"{owner}.{method}" in ("np.load", "torch.load") and "BytesIO" not in ast.unparse(node.args[0]):
            yield f"{owner}.{method}"


@pytest.mark.parametrize("path", SOURCES, ids=[str(path.relative_to(ROOT)) for path in SOURCES])
def test_files_are_opened_in_one_way(path: Path) -> None:
    if not any(str(path).endswith(name) for name in OPENS):
        assert list(opened(path.read_text(encoding="utf-8"))) == []


def test_a_bare_open_is_found() -> None:
    for source in ("open(path)", "path.open()", "Path(x).read_text()", "np.load(path)", "io.open(x)", "(a / b).open()"):
        assert list(opened(source)) != [], source
    for source in ("open_regular(path)", "Run.open(path)", "Image.open(file)", "file.read()", "read_bytes(path)"):
        assert list(opened(source)) == [], source


@pytest.mark.parametrize("path", SOURCES, ids=[str(path.relative_to(ROOT)) for path in SOURCES])
def test_nothing_in_the_source_executes_a_file(path: Path) -> None:
    # The conformance kit takes copies of values of its caller's, and reads no file that way.
    allowed = {"pickle", "eval"} if path.match("testing/law.py") else set()
    assert set(dangers(path.read_text(encoding="utf-8"))) <= allowed


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import yaml",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "f(weights_only=False)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "np.save(path, x, allow_pickle=True)",
        "eval(text)",
        "exec(text)",
        "from torch.distributed.checkpoint import load",
        "subprocess.run(x, shell=True)",
    ],
)
def test_what_executes_files_is_found(source: str) -> None:
    assert list(dangers(source)) != []


def test_what_is_allowed_is_not_found() -> None:
    for source in (
        "torch.load(p, weights_only=True)",
        "np.load(p, allow_pickle=False)",
        "np.save(p, x, allow_pickle=False)",
        "model.eval()",
    ):
        assert list(dangers(source)) == []
