"""What `inspect` tells beyond shapes: the formula, windows, what fits; as text, JSON and CSV; of a config that is given."""

import csv
import io
import json
import sys

import pytest

from hfjax_demo.cache_plan import CacheForm
from hfjax_demo.cli import EXPECTED_FAILURE, main
from hfjax_demo.config_text import MAX_CONFIG_BYTES
from hfjax_demo.known_configs import find_known_config
from hfjax_demo.plan_tables import TABLES

pytestmark = pytest.mark.xdist_group("known_configs")

GEMMA = ["inspect", "--model", "google/gemma-3-1b-pt", "--dtype", "bfloat16"]
CONFIG = find_known_config("GPT-2").folder / "config.json"
KEYS_BEFORE = {
    *("schema", "model", "source", "architecture", "num_attention_heads", "max_context_len", "batch_size", "context_len"),
    *("dtype", "kv_cache", "weights", "mesh"),
}
"""Of the first version of this contract: none may go or change."""


def output(capsys, *arguments):
    assert main(arguments) == 0
    return capsys.readouterr().out


def failure(capsys, *arguments):
    assert main(arguments) == EXPECTED_FAILURE
    captured = capsys.readouterr()
    assert captured.out == ""
    (error,) = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    return error


def test_json_keeps_what_it_had_and_adds_forms_formulas_and_what_fits(capsys):
    plan = json.loads(output(capsys, *GEMMA, "--json"))
    assert plan.keys() > KEYS_BEFORE
    assert plan["schema"] == "hfjax_demo.inspection.v1"
    total = {form["form"]: form["total_bytes"] for form in plan["forms"]}
    assert list(total) == [form.value for form in CacheForm]
    assert total["fixed"] == plan["kv_cache"]["total_bytes"] == 26 * 32_768 * 2 * 256 * 2
    assert total["windowed"] == (4 * 32_768 + 22 * 512) * 2 * 256 * 2
    assert {formula["form"]: formula["total_bytes"] for formula in plan["formulas"]} == total
    assert [layer["window"] for layer in plan["layers"]][:6] == [512] * 5 + [None]
    assert plan["accelerators"][0].keys() >= {"name", "source", "memory_bytes", "fixed", "windowed", "max_tokens_per_s"}
    assert plan["curve"][-1]["context_len"] == 32_768


def test_text_has_the_formula_with_its_numbers_and_what_fits(capsys):
    text = output(capsys, *GEMMA)
    assert "2 x 22 x 1 x 32768 x 256 x 2 x 1 = 738,197,504 bytes" in text
    assert "window 512" in text
    assert "6.0 x less" in text
    assert "NVIDIA T4" in text
    assert "bundled config of google/gemma-3-1b-pt" in text
    assert text.isascii()


def test_what_no_device_holds_is_said_with_the_numbers(capsys):
    text = output(capsys, "inspect", "--model", "DeepSeek-V3", "--dtype", "bfloat16", "--tensor-parallel", "2")
    assert "no: weights need 68" in text
    assert "one latent for all heads: 71.1 x less" in text
    gpt2 = output(capsys, "inspect", "--model", "GPT-2", "--tensor-parallel", "7")
    assert "are not split: every device has them whole" in gpt2


@pytest.mark.parametrize("name", TABLES)
def test_every_table_is_a_csv_with_as_many_cells_as_headers(name, capsys):
    headers, *rows = csv.reader(io.StringIO(output(capsys, *GEMMA, "--tensor-parallel", "2", "--csv", name)))
    assert len(rows) >= (3 if name == "collectives" else 13)
    assert {len(row) for row in rows} == {len(headers)}
    assert all(headers)


def test_the_table_of_layers_has_the_planned_bytes(capsys):
    rows = list(csv.DictReader(io.StringIO(output(capsys, *GEMMA, "--context-len", "10", "--csv", "layers"))))
    assert [row["Window (positions)"] for row in rows[4:6]] == ["512", ""]
    assert {row["Key shape"] for row in rows} == {"(1, 1, 10, 256)"}
    assert sum(int(row["Bytes"]) for row in rows) == 26 * 10 * 2 * 256 * 2


def test_a_given_config_is_planned_from_a_file_and_from_stdin(capsys, monkeypatch):
    of_file = json.loads(output(capsys, "inspect", "--config", str(CONFIG), "--json"))
    monkeypatch.setattr(sys, "stdin", io.StringIO(CONFIG.read_text()))
    assert json.loads(output(capsys, "inspect", "--config", "-", "--json")) == of_file
    assert (of_file["model"], of_file["source"]) == ("gpt2 config", "the config given")
    assert of_file["weights"]["num_parameters"] == 124_439_808


def test_what_a_given_config_leaves_out_is_told(capsys, tmp_path):
    config = json.loads(CONFIG.read_text())
    del config["n_head"]
    (tmp_path / "c.json").write_text(json.dumps(config))
    assert "n_head = 12 (not in the config; Transformers' default)" in output(
        capsys, "inspect", "--config", str(tmp_path / "c.json")
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff\xfe{}", ["not UTF-8"]),
        (b" " * (MAX_CONFIG_BYTES + 2), ["at most 256 kB"]),
        (b'{"model_type": "llama"}', ["its own hidden_size"]),
        (b"[]", ["JSON object"]),
    ],
)
def test_a_given_config_that_is_none_is_refused(content, words, capsys, tmp_path):
    (tmp_path / "config.json").write_bytes(content)
    error = failure(capsys, "inspect", "--config", str(tmp_path / "config.json"))
    for word in words:
        assert word in error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config", "/no/such/file"], ["--config must be a file", "Check the path"]),
        (["--config", "/"], ["--config must be a file", "Check the path"]),
        (["--csv", "heads"], ["--csv", "heads", "--help"]),
        (["--csv", "layers", "--json"], ["Use one of them"]),
    ],
)
def test_flags_that_make_no_sense_are_refused(arguments, words, capsys):
    error = failure(capsys, "inspect", *arguments)
    for word in words:
        assert word in error
