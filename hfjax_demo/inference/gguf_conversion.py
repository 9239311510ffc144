"""GGUF files, dequantised once to float32 safetensors in the user's cache folder.

A conversion is written to a temporary folder, its checksum recorded, and renamed into place: it is there whole or not at
all. A copy whose size or checksum is off is rebuilt, not trusted. Knows nothing of meshes or requests.
"""

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from hfjax_demo.errors import DiskFullError, ModelLoadError
from hfjax_demo.inference.model_files import ModelSource, Progress, check_disk, disk_errors

WEIGHTS_FILE = "model.safetensors"
MANIFEST_FILE = "manifest.json"
MANIFEST_VERSION = 1


def converted_copy(source: ModelSource, cache_dir: Path) -> ModelSource | None:
    """The safetensors copy of a GGUF source if it is there whole (checksums read, 0.5 s for 0.5 GB), else None."""
    folder = _folder_of(source, cache_dir)
    return ModelSource(source.label, folder, weight_files=(WEIGHTS_FILE,)) if _is_whole(folder) else None


def prefer_converted(source: ModelSource, cache_dir: Path) -> ModelSource:
    """The whole converted copy where `source` is a GGUF file that has one: its config reads in no time, not in 8 s."""
    return (source.gguf_filename and converted_copy(source, cache_dir)) or source


def convert_gguf(source: ModelSource, cache_dir: Path, needed_bytes: int, progress: Progress) -> ModelSource:
    """Makes the float32 safetensors copy of a GGUF source, in place of a damaged one if there is one.

    Args:
        source: has a `gguf_filename`.
        cache_dir: the user's cache folder.
        needed_bytes: size of the copy.
        progress: told what is happening.

    Returns:
        A source of safetensors in `cache_dir`.

    Raises:
        ModelLoadError: the GGUF file cannot be read.
        DiskFullError: no room for the copy; nothing is left behind.
    """
    folder = _folder_of(source, cache_dir)
    gguf = source.folder / str(source.gguf_filename)
    with disk_errors(cache_dir):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            copy = converted_copy(source, cache_dir)  # another process may have made it while this one waited
            if copy is None:
                check_disk(cache_dir, needed_bytes, f"The converted copy of {gguf.name}")
                _convert(gguf, folder, progress)
                copy = ModelSource(source.label, folder, weight_files=(WEIGHTS_FILE,))
    return copy


def _folder_of(source: ModelSource, cache_dir: Path) -> Path:
    assert source.gguf_filename is not None
    gguf = source.folder / source.gguf_filename
    return cache_dir / "gguf" / f"{gguf.stem}-{_fingerprint(gguf)}"


def _fingerprint(gguf: Path) -> str:
    """Names the conversion of this very file: path, size and time of change."""
    stat = gguf.stat()
    identity = f"{gguf.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|v{MANIFEST_VERSION}"
    return hashlib.sha256(identity.encode()).hexdigest()[:16]


def _is_whole(folder: Path) -> bool:
    """Whether every file the manifest names is there with the checksum it had when written."""
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_text())
        checksums = manifest["sha256"]
        return WEIGHTS_FILE in checksums and all(_sha256(folder / name) == checksum for name, checksum in checksums.items())
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _convert(gguf: Path, folder: Path, progress: Progress) -> None:
    progress(f"dequantising {gguf.name} to float32 (once; half a minute for a small model)", None)
    for abandoned in folder.parent.glob(f"{folder.name}.*.partial"):  # by a process that was killed: we hold its lock now
        shutil.rmtree(abandoned, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".partial", dir=folder.parent))
    try:
        _write_copy(gguf, temporary, progress)
        checksums = {path.name: _sha256(path) for path in sorted(temporary.iterdir())}
        (temporary / MANIFEST_FILE).write_text(json.dumps({"version": MANIFEST_VERSION, "sha256": checksums}, indent=1))
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_copy(gguf: Path, folder: Path, progress: Progress) -> None:
    try:
        module: Any = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32, local_files_only=True
        )
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, local_files_only=True)
    except Exception as err:  # the gguf reader raises whatever the broken bytes led it to
        reason = str(err).strip().split("\n")[0][:200] or type(err).__name__
        raise ModelLoadError(
            f"A GGUF file must be whole and of an architecture Transformers can dequantise, but {gguf} is not: {reason}. "
            "Fetch it again, or use a safetensors model."
        ) from err
    by_memory = {tensor.data_ptr(): name for name, tensor in reversed(module.state_dict().items())}  # tied ones once
    tensors = {name: module.state_dict()[name].contiguous() for name in by_memory.values()}
    progress("writing the converted copy", None)
    if hasattr(module.config, "quantization_config"):
        del module.config.quantization_config  # the copy is not quantised any more
    try:
        save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        module.config.save_pretrained(folder)
        module.generation_config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except Exception as err:
        # safetensors and tokenizers wrap the operating system's error in their own, without the number.
        if "No space left" in str(err) or "os error 28" in str(err):
            raise DiskFullError(
                f"The converted copy of {gguf.name} must be written whole, but the disk of {folder.parent} is full. Free "
                "some space, or set HFJAX_DEMO_CACHE_DIR to another disk."
            ) from err
        raise
