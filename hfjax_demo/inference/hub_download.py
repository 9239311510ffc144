"""Models from the Hugging Face Hub: what to fetch, how far it is, what went wrong, and what an earlier download left.

Knows nothing of catalog names, local folders or torch.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx2  # huggingface_hub's own client from 2.0 on; `httpx` errors are other classes
import huggingface_hub
from huggingface_hub import errors as hub_errors
from huggingface_hub.utils.tqdm import tqdm as hub_tqdm

from hfjax_demo.errors import HubUnreachableError, ModelNotFoundError
from hfjax_demo.inference.model_files import (
    ModelSource,
    Progress,
    check_disk,
    disk_errors,
    is_weight_file,
    require_safetensors,
)

SUPPORT_FILES = re.compile(r"(?!.*(training_args|optimizer)).*\.(json|txt|model|jinja)")
HUB_TIMEOUT_S = 10.0


def fetch(repo_id: str, progress: Progress, weights: bool) -> ModelSource:
    """Downloads a repository's config and tokenizer, and its safetensors if `weights`; what is cached is not fetched again.

    Args:
        repo_id: "owner/name".
        progress: told how far the download is.
        weights: whether the weights are needed, or the config alone.

    Returns:
        The snapshot in huggingface_hub's cache.

    Raises:
        ModelNotFoundError: no such repository, or no access to it.
        HubUnreachableError: the Hub does not answer and no earlier download is there.
        UnsupportedModelError: its weights would have to be unpickled.
        DiskFullError: no room for it.
    """
    progress(f"asking the Hub for {repo_id}", None)
    huggingface_hub.get_session().timeout = HUB_TIMEOUT_S  # snapshot_download lists files with no timeout of its own
    try:
        with _hub_errors(repo_id):
            info = huggingface_hub.HfApi().model_info(repo_id, files_metadata=True, timeout=HUB_TIMEOUT_S)
    except HubUnreachableError:
        # All of it first, even for a look at the config: then nobody has to wait for the Hub a second time.
        cached = _from_cache(repo_id, weights=True) or (None if weights else _from_cache(repo_id, weights=False))
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
        require_safetensors(repo_id, sorted(sizes), weight_files)
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
    weight_files = tuple(sorted(name for name in names if weights and is_weight_file(name)))
    return [*(name for name in names if SUPPORT_FILES.fullmatch(name)), *weight_files], weight_files


def _from_cache(repo_id: str, weights: bool) -> ModelSource | None:
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


def is_downloaded(repo_id: str) -> bool:
    """Whether a repository's weights are in the cache."""
    names = ("model.safetensors", "model.safetensors.index.json")
    return any(isinstance(huggingface_hub.try_to_load_from_cache(repo_id, name), str) for name in names)


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
