"""What a model's files are, and writing them: a source of files, which of them hold weights, and full disks.

Weights are safetensors or GGUF; what would have to be unpickled is refused here. Knows nothing of names, hubs or torch.
"""

import errno
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hfjax_demo.errors import DiskFullError, ModelNotFoundError, StorageError, UnsupportedModelError, readable_bytes

Progress = Callable[[str, float | None], None]
"""Called with what is happening and how far it is (0 to 1, None if unknown); may raise to give up."""

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
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


def is_weight_file(name: str) -> bool:
    """Safetensors of the Transformers layout; Mistral's own "consolidated" files repeat the same weights."""
    return name.endswith(".safetensors") and not name.startswith("consolidated")


def require_safetensors(name: str, names: list[str], weight_files: tuple[str, ...]) -> None:
    """Raises unless there are weights that can be read without unpickling.

    Args:
        name: of the model, for the message.
        names: all its files.
        weight_files: those `is_weight_file` accepts.

    Raises:
        UnsupportedModelError: the only weights are pickles.
        ModelNotFoundError: there are none.
    """
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
