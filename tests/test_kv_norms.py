"""What a record keeps of a cache: the norms of its real arrays, in few bytes, and in no step's time or compilations."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hfjax_demo.cache_norms import (
    MAX_COLUMNS,
    MAX_LEVEL,
    MAX_LEVELS_CHARS,
    column_positions,
    decode_levels,
    fitting_positions_per_column,
    norms_by_head,
    num_columns,
)
from hfjax_demo.events import RunRecord, StepEvent
from hfjax_demo.inference import generation, kv_norms
from hfjax_demo.inference.generation import Generation
from hfjax_demo.inference.kv_cache import FixedCache, GrowingCache
from hfjax_demo.inference.kv_norms import cache_norms
from hfjax_demo.plain_json import from_dict, to_dict
from hfjax_demo.requests import GenerationRequest
from hfjax_demo.ui.record_check import check_record
from tests.architectures import prompt_of, write_architecture

pytestmark = pytest.mark.xdist_group("engine")

FIXED, GROWING = {"mode": "jit", "cache": "static"}, {"mode": "eager", "cache": "dynamic"}


@pytest.fixture
def run(engine, monkeypatch):
    """Runs a model and returns the record with the cache's arrays as they were after the last step."""
    caches = []
    record_of = Generation.record

    def keeping(self, *arguments):
        pairs = zip(self._cache.keys, self._cache.values, strict=True) if self._cache else ()
        caches.append([None if keys is None else (np.asarray(keys), np.asarray(values)) for keys, values in pairs])
        return record_of(self, *arguments)

    def run(model, prompt_len=10, **fields):
        settings = {"prompt": prompt_of(prompt_len), "model": str(model), "max_new_tokens": 3, "ignore_eos": True}
        record = engine.generate(GenerationRequest(**settings | fields), allow_local=True)
        return record, caches[-1]

    monkeypatch.setattr(Generation, "record", keeping)
    return run


def assert_norms_of(record, arrays):
    """Level for level, the record has numpy's norms of the arrays' filled positions."""
    filled_len = record.steps[-1].filled_len
    assert record.norms.positions_per_column == 1
    assert [layer.layer for layer in record.norms.layers] == [index for index, pair in enumerate(arrays) if pair]
    for layer in record.norms.layers:
        held = min(filled_len, arrays[layer.layer][0].shape[2])
        assert (layer.first_position, layer.num_positions) == (filled_len - held, held)
        for array, levels, greatest in zip(
            arrays[layer.layer], (layer.keys, layer.values), (layer.key_max, layer.value_max), strict=True
        ):
            expected = np.linalg.norm(array[0, :, :held].astype(np.float64), axis=-1)
            norms = np.array(norms_by_head(levels, greatest, layer.num_heads))
            assert norms.shape == expected.shape
            assert greatest == pytest.approx(expected.max(), rel=1e-5)
            assert np.abs(norms - expected).max() <= greatest / MAX_LEVEL / 2 * 1.001
        assert len(np.unique(norms)) > norms.size // 4, "alike, they prove nothing (normalised keys are)"
    check_record(record)
    assert from_dict(RunRecord, json.loads(json.dumps(to_dict(record)))) == record


@pytest.mark.parametrize("setting", [FIXED, GROWING, {"mode": "jit", "cache": "dynamic"}], ids=str)
@pytest.mark.parametrize("fields", [{}, {"dtype": "bfloat16"}, {"tensor_parallel": 2}], ids=str)
def test_the_norms_are_those_of_the_arrays_in_the_cache(run, tiny_llama, setting, fields):
    record, arrays = run(tiny_llama, **setting | fields)
    assert_norms_of(record, arrays)
    assert [layer.num_heads for layer in record.norms.layers] == [2, 2]
    assert record.norms.layers[0].num_positions == 12


@pytest.mark.parametrize("name", ["gemma", "gemma3_text", "deepseek_v3"])
@pytest.mark.parametrize("setting", [FIXED, GROWING], ids=str)
def test_every_form_of_attention_has_norms(run, tmp_path, name, setting):
    """One KV head, windows beside full layers, compressed keys and values of unequal size."""
    assert_norms_of(*run(write_architecture(name, tmp_path / name), **setting))


def test_a_window_that_grows_holds_the_last_positions_only(run, tmp_path):
    record, arrays = run(write_architecture("gemma3_text", tmp_path / "gemma3"), **GROWING)
    sliding, full = record.norms.layers
    assert (sliding.first_position, sliding.num_positions) == (5, 7)
    assert (full.first_position, full.num_positions) == (0, 12)
    assert arrays[0][0].shape[2] == 7


def test_a_run_without_a_cache_has_no_norms(run, tiny_llama):
    record, _ = run(tiny_llama, mode="eager", cache="none")
    assert record.norms is None
    assert len(record.prompt_texts) == 10


def test_a_stopped_run_has_the_norms_of_what_it_read(engine, tiny_llama):
    stream = engine.submit(
        GenerationRequest(prompt_of(10), tiny_llama, max_new_tokens=200, ignore_eos=True), allow_local=True
    )
    next(event for event in stream if isinstance(event, StepEvent))
    engine.stop(stream.id)
    record = stream.result()
    assert record.finish_reason == "stopped"
    assert {layer.num_positions for layer in record.norms.layers} == {record.steps[-1].filled_len}


def test_a_run_stopped_before_its_first_step_has_none():
    empty = GrowingCache((None, None), (None, None), 0)
    assert cache_norms(empty, 0) is None
    assert cache_norms(FixedCache((jnp.zeros((1, 2, 4, 8)),), (jnp.zeros((1, 2, 4, 8)),)), 0) is None


def test_norms_belong_to_no_step_and_a_second_run_compiles_nothing(run, tiny_llama, monkeypatch):
    """With them and without, every step counts the same."""

    def counts(record):
        return [(step.num_traces, step.num_compiles, step.compiled) for step in record.steps], record.summary.programs

    run(tiny_llama)
    kv_norms._norms.clear_cache()
    again, _ = run(tiny_llama)
    assert kv_norms._norms._cache_size() == 1
    run(tiny_llama, prompt_len=9)
    assert kv_norms._norms._cache_size() == 1, "one capacity, one compilation"
    monkeypatch.setattr(generation, "cache_norms", lambda *_: None)
    without, _ = run(tiny_llama)
    assert again.norms is not None
    assert counts(again) == counts(without)
    assert again.summary.num_compiles == again.summary.num_traces == 0


def test_a_device_that_fails_at_the_norms_does_not_lose_the_run(run, tiny_llama, monkeypatch, caplog):
    def out_of_memory(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(generation, "cache_norms", out_of_memory)
    record, _ = run(tiny_llama)
    assert (record.norms, len(record.token_ids)) == (None, 3)
    assert "no norms of the cache after 12 positions" in caplog.text
    assert "RESOURCE_EXHAUSTED" in caplog.text


def random_cache(num_heads, num_positions, seed=0):
    values = jax.random.normal(jax.random.key(seed), (1, num_heads, num_positions, 8))
    return GrowingCache((values,), (values * 2,), num_positions)


def test_a_column_of_several_positions_has_the_greatest_of_their_norms():
    cache = random_cache(4, 3000)
    norms = cache_norms(cache, 3002)
    (layer,) = norms.layers
    per_column = norms.positions_per_column
    expected = np.linalg.norm(np.asarray(cache.keys[0][0]), axis=-1)
    assert (layer.first_position, per_column) == (2, 3)
    columns = norms_by_head(layer.keys, layer.key_max, 4)
    for head, row in enumerate(columns):
        for column, norm in enumerate(row):
            held = column_positions(layer, column, per_column)
            assert norm == pytest.approx(max(expected[head, position - 2] for position in held), abs=layer.key_max / 500)
    assert column_positions(layer, 0, per_column) == range(2, 3)
    assert column_positions(layer, len(columns[0]) - 1, per_column) == range(3000, 3002)


@pytest.mark.parametrize(
    ("num_layers", "num_heads", "num_positions", "per_column"),
    [(30, 3, 256, 1), (30, 3, 512, 2), (1, 1, 1024, 1), (1, 1, 1025, 2), (126, 8, 100_000, 4167), (2000, 20, 9, 9)],
)
def test_positions_share_columns_as_soon_as_each_would_take_too_much(num_layers, num_heads, num_positions, per_column):
    layers = [(num_heads, 0, num_positions)] * num_layers
    assert fitting_positions_per_column(layers) == per_column
    chars = 2 * num_layers * 4 * -(-num_heads * num_columns(0, num_positions, per_column) // 3)
    assert chars <= MAX_LEVELS_CHARS or per_column == num_positions
    assert num_columns(0, num_positions, per_column) <= MAX_COLUMNS


def test_a_window_far_into_a_text_is_no_wider_a_grid():
    assert fitting_positions_per_column([(1, 1_000_000, 512)]) == 1
    assert fitting_positions_per_column([]) == 1


def test_a_large_cache_keeps_within_its_bytes():
    cache = random_cache(8, 3000)
    whole = GrowingCache(cache.keys * 12, cache.values * 12, 3000)
    norms = cache_norms(whole, 3000)
    assert sum(len(layer.keys) + len(layer.values) for layer in norms.layers) <= MAX_LEVELS_CHARS
    assert len(json.dumps(to_dict(norms))) < MAX_LEVELS_CHARS + 12 * 200


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 1e30])
def test_a_layer_whose_norms_are_not_finite_is_left_out(number):
    """1e30 is a number, its square is not one of float32's."""
    good = random_cache(2, 5)
    bad = good.keys[0].at[0, 1, 3, 2].set(number)
    norms = cache_norms(GrowingCache((bad, good.keys[0]), good.values * 2, 5), 5)
    assert [layer.layer for layer in norms.layers] == [1]
    json.dumps(to_dict(norms), allow_nan=False)


def test_a_cache_of_zeros_has_norms_of_zero():
    zeros = jnp.zeros((1, 2, 4, 8))
    (layer,) = cache_norms(FixedCache((zeros,), (zeros,)), 3).layers
    assert (layer.key_max, decode_levels(layer.keys)) == (0.0, bytes(6))


def test_a_record_from_before_norms_is_still_a_record(run, tiny_llama):
    data = to_dict(run(tiny_llama)[0])
    del data["norms"], data["prompt_texts"]
    record = from_dict(RunRecord, data)
    assert (record.norms, record.prompt_texts) == (None, ())
    check_record(record)


def test_prompt_tokens_are_texts_that_join_to_the_prompt(run, tiny_llama):
    record, _ = run(tiny_llama, prompt="a日b")
    assert record.prompt_texts == ("a", "", "", "日", "b")
    assert replace(record, prompt_texts=()) != record


def test_a_special_token_of_the_prompt_has_its_name(engine):
    record = engine.generate(GenerationRequest("hi", chat=True, max_new_tokens=1))
    assert record.prompt_texts[0] == "<|im_start|>"
    assert "".join(record.prompt_texts).count("<|im_end|>") == 2
