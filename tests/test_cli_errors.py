"""The command line's contract: an expected failure is one line on stderr and exit 2; JSON is alone on stdout."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hfjax_demo.cli import EXPECTED_FAILURE, main
from hfjax_demo.inference.model_files import ANOTHER_PLACE
from tests.conftest import DEVICES
from tests.tiny_models import CONTEXT_LEN, HEAD_DIM, NUM_KV_HEADS, NUM_LAYERS, tiny_config, write_tiny_gguf, write_tiny_llama

pytestmark = pytest.mark.xdist_group("cli_errors")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> str:
    return str(write_tiny_llama(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(autouse=True)
def own_environment(monkeypatch, tmp_path):
    """No setting of the machine the tests run on, and a cache folder of the test's own."""
    for name in os.environ:
        if name.startswith("HFJAX_DEMO_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HFJAX_DEMO_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("HFJAX_DEMO_DEVICES", str(DEVICES))  # the first engine of a test process fixes it for all


def assert_one_line(status: int, out: str, err: str) -> str:
    """The error line: the last on stderr, the only one of its kind, of sentences that end; nothing on stdout."""
    lines = err.splitlines()
    assert status == EXPECTED_FAILURE
    assert out == ""
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:], err
    assert "Traceback" not in err
    assert lines[-1].endswith((".", "`")), "a message ends with its way out"
    return lines[-1]


def failure(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    status = main(arguments)
    captured = capsys.readouterr()
    return assert_one_line(status, captured.out, captured.err)


def failure_to_generate(capsys: pytest.CaptureFixture[str], *more: str, prompt: str = "hello") -> str:
    return failure(capsys, "generate", "--prompt", prompt, *more)


@pytest.mark.parametrize("prompt", ["", " ", "\n\t ", "\u3000"])
def test_a_prompt_of_nothing_is_refused(prompt, capsys):
    assert "white space" in failure_to_generate(capsys, prompt=prompt)


def test_a_prompt_of_bytes_that_are_no_text_is_refused(capsys):
    error = failure_to_generate(capsys, prompt="ab" + os.fsdecode(b"\xff\xfe"))
    assert "surrogate at character 2" in error
    assert "UTF-8" in error


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--max-new-tokens", "0", ["at least 1", "is 0"]),
        ("--max-new-tokens", "-3", ["at least 1", "-3"]),
        ("--max-new-tokens", "1.5", ["whole number", "'1.5'", "--help"]),
        ("--max-new-tokens", "abc", ["whole number", "'abc'", "--help"]),
        ("--max-new-tokens", "", ["whole number", "''", "--help"]),
        ("--temperature", "-1", ["0 (greedy) or more", "-1"]),
        ("--temperature", "nan", ["finite", "nan"]),
        ("--temperature", "inf", ["finite", "inf"]),
        ("--temperature", "abc", ["number", "'abc'", "--help"]),
        ("--top-p", "0", ["above 0", "is 0"]),
        ("--top-p", "1.5", ["at most 1", "1.5"]),
        ("--top-p", "nan", ["finite", "nan"]),
        ("--top-k", "-1", ["from 0", "-1"]),
        ("--top-k", "99999999999", ["2147483647", "99999999999"]),
        ("--seed", "-1", ["from 0 to 4294967295", "-1"]),
        ("--seed", "4294967296", ["from 0 to 4294967295", "4294967296"]),
        ("--mode", "fast", ["eager, jit", "'fast'"]),
        ("--mode", "", ["eager, jit", "''"]),
        ("--cache", "paged", ["none, dynamic, static", "'paged'"]),
        ("--cache", "", ["none, dynamic, static", "''"]),
        ("--dtype", "int4", ["float32, bfloat16, float16", "'int4'"]),
        ("--max-cache-len", "0", ["at least 1", "is 0"]),
        ("--tensor-parallel", "0", ["at least 1", "is 0"]),
        ("--devices", "0", ["at least 1", "is 0", "HFJAX_DEMO_DEVICES"]),
        ("--devices", "99999999999999999999", ["at most 1024", "99999999999999999999"]),
        ("--model", "", ["must be named"]),
    ],
)
def test_a_value_out_of_range_is_refused_with_the_range_and_the_value(option, value, words, capsys):
    error = failure_to_generate(capsys, option, value)
    for word in words:
        assert word in error


def test_jit_without_a_cache_is_refused_with_what_to_use(capsys):
    error = failure_to_generate(capsys, "--mode", "jit", "--cache", "none")
    assert "--cache static" in error
    assert "--mode eager" in error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["COMMAND", "--help"]),
        (["translate"], ["translate", "generate", "inspect", "models"]),
        (["generate"], ["--prompt", "--help"]),
        (["generate", "--prompt"], ["--prompt", "expected one argument"]),
        (["generate", "--prompt", "x", "--beams", "4"], ["--beams", "--help"]),
        (["generate", "--prompt", "x", "--beams", "two\nlines"], ["--beams", "--help"]),
        (["models", "--model", "x"], ["--model", "--help"]),
    ],
)
def test_a_command_that_is_not_understood_points_to_the_help(arguments, words, capsys):
    error = failure(capsys, *arguments)
    for word in words:
        assert word in error


def test_too_many_tokens_for_the_models_context_says_how_many_fit(tiny, capsys):
    error = failure_to_generate(capsys, "--model", tiny, "--max-new-tokens", "200")
    assert f"need 201 positions (1 + 200) but the model's context has {CONTEXT_LEN}" in error
    assert "at most 127 new tokens" in error


def test_a_prompt_longer_than_the_context_says_how_long_it_may_be(tiny, capsys):
    error = failure_to_generate(capsys, "--model", tiny, "--max-new-tokens", "1", prompt="x" * 200)
    assert "(200 + 1)" in error
    assert "Shorten the prompt to at most 127 tokens" in error


def test_too_many_tokens_for_the_cache_asked_for_says_how_many_fit(tiny, capsys):
    error = failure_to_generate(capsys, "--model", tiny, "--max-new-tokens", "20", "--max-cache-len", "16")
    assert "need 21 positions (1 + 20) but max_cache_len is 16" in error
    assert "at most 15 new tokens" in error


def test_a_cache_beyond_the_operators_limit_names_the_setting(tiny, capsys, monkeypatch):
    monkeypatch.setenv("HFJAX_DEMO_MAX_CACHE_LEN", "64")
    error = failure_to_generate(capsys, "--model", tiny, "--max-new-tokens", "1", "--max-cache-len", "65")
    assert "at most 64 here but is 65" in error
    assert "HFJAX_DEMO_MAX_CACHE_LEN" in error


def test_jit_over_a_growing_cache_is_refused_beyond_a_few_tokens(tiny, capsys):
    error = failure_to_generate(capsys, "--model", tiny, "--cache", "dynamic", "--max-new-tokens", "17")
    assert "at most 16 new tokens but 17" in error
    assert "fixed cache (static)" in error


def test_more_parts_than_devices_are_refused_with_both_numbers(tiny, capsys):
    error = failure_to_generate(capsys, "--model", tiny, "--tensor-parallel", "999")
    assert "999 were asked for but this process has" in error
    assert "--devices 999" in error


def test_chat_with_a_model_that_has_no_template_is_refused(tiny, capsys):
    error = failure_to_generate(capsys, "--model", tiny, "--chat")
    assert "chat template" in error
    assert "Turn chat off" in error


def test_a_model_beyond_the_memory_limit_is_refused_with_the_numbers(tiny, capsys, monkeypatch):
    monkeypatch.setenv("HFJAX_DEMO_MEMORY_LIMIT_BYTES", "100000")
    error = failure_to_generate(capsys, "--model", tiny)
    assert "needs 0.16 MB while loading but 0.10 MB are free" in error
    assert "--dtype bfloat16" in error


@pytest.mark.parametrize(("name", "value"), [("MAX_CACHE_LEN", "many"), ("DEVICES", "0"), ("MEMORY_LIMIT_BYTES", "-1")])
def test_a_setting_that_makes_no_sense_is_named(name, value, capsys, monkeypatch):
    monkeypatch.setenv(f"HFJAX_DEMO_{name}", value)
    error = failure_to_generate(capsys)
    assert f"HFJAX_DEMO_{name}" in error
    assert value in error


def test_a_cache_folder_that_cannot_be_written_is_refused(tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("HFJAX_DEMO_CACHE_DIR", str(tmp_path / "file"))
    error = failure_to_generate(capsys, "--model", str(write_tiny_gguf(tmp_path / "tiny.gguf")))
    assert ANOTHER_PLACE in error


def test_a_folder_whose_name_has_a_line_break_still_makes_one_line(tmp_path, capsys):
    folder = tmp_path / "two\nlines"
    folder.mkdir()
    (folder / "config.json").write_text("{nope")
    assert "two lines" in failure(capsys, "inspect", "--model", str(folder))


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--context-len", "0", ["from 1 to", "is 0"]),
        ("--context-len", "1e3", ["whole number", "'1e3'"]),
        ("--batch-size", "0", ["from 1 to", "is 0"]),
        ("--tensor-parallel", "0", ["from 1 to", "is 0"]),
        ("--dtype", "int4", ["float32, bfloat16, float16", "'int4'"]),
        ("--model", "", ["is neither", "models"]),
        ("--model", "two words", ["'two words' is neither", "models"]),
        ("--model", "./nowhere", ["./nowhere", "does not exist", "Check the path"]),
    ],
)
def test_inspect_refuses_what_it_cannot_plan(option, value, words, tiny, capsys):
    """An empty model name once meant the current folder."""
    error = failure(capsys, "inspect", "--model", tiny, option, value)
    for word in words:
        assert word in error


def test_inspect_plans_from_a_config_alone(tmp_path, capsys):
    tiny_config().save_pretrained(tmp_path)
    for path in tmp_path.iterdir():
        if path.name != "config.json":
            path.unlink()
    arguments = ["--context-len", "10", "--batch-size", "3", "--dtype", "bfloat16", "--tensor-parallel", "2"]
    assert main(["inspect", "--model", str(tmp_path), *arguments, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)

    assert plan["schema"]
    assert plan["mesh"] == {"axis": "model", "size": 2, "devices": []}
    assert (plan["context_len"], plan["batch_size"], plan["dtype"]) == (10, 3, "bfloat16")
    cache = plan["kv_cache"]
    shape = [3, NUM_KV_HEADS, 10, HEAD_DIM]
    layer_bytes = 2 * 3 * NUM_KV_HEADS * 10 * HEAD_DIM * 2
    assert len(cache["layers"]) == NUM_LAYERS
    for index, layer in enumerate(cache["layers"]):
        assert layer.keys() >= {"layer", "kind", "key_shape", "value_shape", "bytes"}
        assert (layer["layer"], layer["key_shape"], layer["value_shape"]) == (index, shape, shape)
        assert layer["bytes"] == layer_bytes
    assert cache["total_bytes"] == NUM_LAYERS * layer_bytes
    assert cache["bytes_per_device"] == cache["total_bytes"] // 2
    assert cache["bytes_per_token"] == cache["total_bytes"] // 30
    weights = plan["weights"]
    for tensor in weights["tensors"]:
        assert tensor.keys() >= {"name", "shape", "spec", "shard_shape", "bytes_per_device", "reason"}
        assert tensor["reason"]
    assert weights["num_parameters"] * 2 == weights["total_bytes"]
    up = next(tensor for tensor in weights["tensors"] if tensor["name"] == "model.layers.0.mlp.up_proj.weight")
    assert (up["shape"], up["shard_shape"]) == ([64, 32], [32, 32])
    assert up["bytes_per_device"] == 32 * 32 * 2


def test_inspect_without_json_prints_a_table(tiny, capsys):
    assert main(["inspect", "--model", tiny]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("LlamaForCausalLM")
    assert sum(line.lstrip().startswith("layer") for line in lines) == NUM_LAYERS


def test_models_lists_the_catalog_as_json_and_as_a_table(capsys):
    assert main(["models", "--json"]) == 0
    listing = json.loads(capsys.readouterr().out)
    assert listing["schema"]
    assert [model["name"] for model in listing["models"] if model["is_default"]] == ["SmolLM2-135M-Instruct"]
    for model in listing["models"]:
        assert model.keys() >= {"name", "hub_id", "num_parameters", "status"}
        assert model["status"] in {"packaged", "downloaded", "on the Hub"}
    assert main(["models"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(listing["models"])


# In processes of their own: what file descriptors, real argv bytes and a real stdin make of it.


def run_process(*arguments: str | bytes, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "hfjax_demo", *arguments],
        input=stdin,
        capture_output=True,
        env=os.environ | {"PYTHONUTF8": "1"} | environment,
        timeout=300,
    )


def test_argv_and_stdin_that_are_no_text_fail_in_one_line():
    """A byte that is no UTF-8 on stdin once ended in a traceback."""
    for result, word in [
        (run_process("generate", "--prompt", b"caf\xe9"), "surrogate at character 3"),
        (run_process("generate", "--prompt", "-", stdin=b"caf\xe9"), "surrogate at character 3"),
        (run_process("generate", "--prompt", "-", stdin=b"caf\xe9", PYTHONIOENCODING="utf-8:strict"), "byte 3 of stdin"),
    ]:
        assert word in assert_one_line(result.returncode, result.stdout.decode(), result.stderr.decode())


def check_record(record: dict[str, Any], prompt: str) -> None:
    assert record.keys() >= {
        "schema", "request", "model", "environment", "prompt_ids", "token_ids", "text", "finish_reason", "steps", "summary",
    }  # fmt: skip
    assert record["request"]["prompt"] == prompt
    assert record["environment"].keys() >= {"versions", "num_devices", "mesh"}
    assert record["environment"]["mesh"].keys() == {"axis", "size", "devices"}
    assert record["environment"]["versions"].keys() >= {"python", "torch", "torchax", "jax", "transformers", "hfjax_demo"}
    assert record["summary"].keys() >= {
        "load_s", "trace_s", "compile_s", "prefill_s", "time_to_first_token_s", "decode_s", "tokens_per_s", "num_traces",
        "num_compiles", "kv_bytes", "peak_rss_bytes",
    }  # fmt: skip
    for step in record["steps"]:
        assert step.keys() >= {
            "index", "phase", "token_id", "text", "input_shape", "position", "duration_s", "trace_s", "compile_s",
            "num_compiles", "kv",
        }  # fmt: skip
        for layer in step["kv"]:
            assert layer.keys() >= {"layer", "kind", "key_shape", "value_shape", "filled_len", "capacity", "bytes"}


def test_generate_prints_one_json_object_and_nothing_else_whatever_stdout_can_encode(tiny):
    """Library prints and progress go to stderr; an ASCII stdout once failed on the first accent."""
    prompt = "hello → ünïcödé"
    arguments = ["--model", tiny, "--max-new-tokens", "3", "--ignore-eos", "--json"]
    result = run_process("generate", "--prompt", prompt.encode(), *arguments, PYTHONIOENCODING="ascii:strict")
    assert result.returncode == 0, result.stderr.decode()
    assert result.stdout.count(b"\n") == 1
    record = json.loads(result.stdout)
    check_record(record, prompt)
    assert len(record["token_ids"]) == len(record["steps"]) == 3
    assert record["finish_reason"] == "length"
    assert [step["token_id"] for step in record["steps"]] == record["token_ids"]
    assert [step["phase"] for step in record["steps"]] == ["prefill", "decode", "decode"]
    assert "".join(step["text"] for step in record["steps"]) == record["text"]
    prompt_len = len(record["prompt_ids"])
    assert [step["position"] for step in record["steps"]] == [0, prompt_len, prompt_len + 1]
    assert [step["kv"][0]["filled_len"] for step in record["steps"]] == [prompt_len, prompt_len + 1, prompt_len + 2]
    assert record["steps"][0]["kv"][0]["key_shape"] == [1, NUM_KV_HEADS, record["steps"][0]["kv"][0]["capacity"], HEAD_DIM]
    assert Path(record["model"]["source"]) == Path(tiny)


def test_generate_without_json_streams_the_text_alone_to_stdout(tiny, capsys):
    assert main(["generate", "--model", tiny, "--prompt", "hello", "--max-new-tokens", "1", "--ignore-eos"]) == 0
    captured = capsys.readouterr()
    assert captured.out.endswith("\n")
    assert captured.out.strip()
    assert "tokens/s" not in captured.out
    assert "tokens/s" in captured.err.splitlines()[-1]
