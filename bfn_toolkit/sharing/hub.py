"""The Hugging Face Hub, to which models are uploaded.

:meth:`bfn_toolkit.BFN.from_pretrained` also fetches them.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from bfn_toolkit.errors import ResourceError
from bfn_toolkit.runs.model_files import WEIGHTS
from bfn_toolkit.sharing.model_card import CARD, CONFIG
from bfn_toolkit.sharing.zoo import located
from bfn_toolkit.storage.files import SUMS

_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
_INSTALL = "huggingface_hub is not installed; write: pip install huggingface-hub"


@contextmanager
def local(model: str | Path, revision: str | None = None) -> Iterator[Path]:
    """Scope with the folder of a model, which is fetched into a temporary one if it is a repository of the Hub.

    Arguments:
        model: Folder, model of a zoo, or repository ("owner/name").  A name that could also be a path is a repository
            only if there is no folder "owner" here, or a ``revision``.
        revision: Branch, tag or commit of the repository.
    Raises:
        RunDirectoryError: If there is no such zoo, or no such model in it.
        ResourceError: If the Hub's client is not installed, or the files cannot be fetched.
    """
    is_name = isinstance(model, str) and _REPOSITORY.fullmatch(model)
    if revision is None and not (is_name and not Path(model).parent.exists()):
        yield located(model)
        return
    with tempfile.TemporaryDirectory() as temporary:
        _fetch(str(model), revision, Path(temporary))
        yield Path(temporary)


def _fetch(repo_id: str, revision: str | None, folder: Path) -> None:
    """Copies the files of a model out of the cache of the Hub's client, where they are links."""
    instead = "" if revision else " (there is no folder of this name here)"
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ResourceError(f"cannot fetch {repo_id} from the Hugging Face Hub{instead}: {_INSTALL}") from error
    names = (CONFIG, WEIGHTS, SUMS, CARD)
    try:
        snapshot = Path(snapshot_download(repo_id, revision=revision, allow_patterns=list(names)))
        for name in names:
            if (snapshot / name).is_file():
                shutil.copyfile(snapshot / name, folder / name)
    except Exception as error:  # the client, its transport and the server raise different ones
        reason = f"{type(error).__name__}: {error}"
        raise ResourceError(f"cannot fetch {repo_id} from the Hugging Face Hub{instead}: {reason}") from error


def push(save_to: Callable[[Path], None], repo_id: str, *, private: bool, token: str | None) -> str:
    """Saves a model into a temporary directory and uploads that; :meth:`bfn_toolkit.BFN.push_to_hub` says more.

    Raises:
        ResourceError: If the Hub's client is not installed, or the upload fails.
    """
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise ResourceError(_INSTALL) from error
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / repo_id.rpartition("/")[2]
        save_to(folder)
        try:
            api = HfApi(token=token)
            address = api.create_repo(repo_id, private=private, exist_ok=True)
            message = f"Upload a model of bfn-toolkit {version('bfn-toolkit')}"
            api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message)
        except Exception as error:  # the client, its transport and the server raise different ones
            raise ResourceError(f"cannot push to {repo_id}: {type(error).__name__}: {error}") from error
    return str(address)
