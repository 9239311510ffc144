"""What is planned from a config alone is what a real run allocates: shapes and bytes of every layer, of both caches."""

import pytest

from hfjax_demo.cache_plan import CacheForm, cache_bytes, elements_per_position, layer_groups, positions_held
from hfjax_demo.inference.inspection import inspect_model
from hfjax_demo.kv_shapes import DTYPE_BYTES
from hfjax_demo.requests import GenerationRequest
from tests.architectures import ARCHITECTURES, SIZES, UNTIED, prompt_of, write_architecture

PROMPT_LEN = 13
WINDOW = 8
"""Of every architecture here that has one: shorter than the prompt, so that a growing cache forgets."""

GROUPED = ("llama", "qwen2", "qwen3", "phi3", "granite", "mixtral", "qwen3_moe")
FULL = ("gpt2", "bloom")
MULTI_QUERY = ("gemma", "falcon")
WITH_WINDOWS = ("mistral", "gemma2", "gemma3_text", "gpt_oss", "exaone4")
LATENT = ("deepseek_v3",)
EVERY = (*GROUPED, *FULL, *MULTI_QUERY, *WITH_WINDOWS, *LATENT)

pytestmark = pytest.mark.xdist_group("architectures")  # one process, so that they share compiled operators


def run(engine, folder, **fields):
    request = GenerationRequest(prompt_of(PROMPT_LEN), str(folder), max_new_tokens=1, ignore_eos=True, **fields)
    return engine.generate(request, allow_local=True)


def plan(engine, folder, **numbers):
    return inspect_model(str(folder), engine.settings, lambda *_: None, allow_local=True, **numbers)


def assert_planned_as_allocated(engine, folder):
    """Runs a prefill over each cache and compares every layer of it with the plan."""
    fixed = run(engine, folder, mode="eager", cache="static").steps[0].kv
    inspection = plan(engine, folder, context_len=fixed[0].capacity)
    planned = inspection.kv_cache
    assert [(layer.kind, layer.key_shape, layer.value_shape, layer.bytes) for layer in planned.layers] == [
        (layer.kind, layer.key_shape, layer.value_shape, layer.bytes) for layer in fixed
    ]
    assert planned.total_bytes == sum(layer.bytes for layer in fixed) > 0

    growing = run(engine, folder, mode="eager", cache="dynamic").steps[0].kv
    shorter = plan(engine, folder, context_len=PROMPT_LEN)
    for layer, geometry in zip(growing, shorter.layers, strict=True):
        held = positions_held(geometry, CacheForm.GROWING, PROMPT_LEN)
        assert layer.bytes == held * elements_per_position(geometry, CacheForm.GROWING) * DTYPE_BYTES["float32"]
        assert layer.key_shape == ((1, geometry.num_kv_heads, held, geometry.key_head_dim) if geometry.holds_kv else ())
    forms = {form.form: form.total_bytes for form in shorter.forms}
    assert forms[CacheForm.GROWING] == sum(layer.bytes for layer in growing)
    assert {formula.form: formula.total_bytes for formula in shorter.formulas} == forms
    return shorter


@pytest.mark.parametrize("name", EVERY)
def test_every_layer_is_planned_as_it_is_allocated(engine, tmp_path, name):
    inspection = assert_planned_as_allocated(engine, write_architecture(name, tmp_path / name))
    heads = {layer.num_kv_heads for layer in inspection.layers}
    windows = {layer.window for layer in inspection.layers if layer.window}
    assert heads == ({4} if name in FULL else {1} if name in MULTI_QUERY + LATENT else {2})
    assert windows == ({WINDOW} if name in WITH_WINDOWS else set())


def test_a_latent_is_planned_as_what_is_kept_and_what_it_unfolds_to(engine, tmp_path):
    """Transformers keeps the compressed 16 + 8 numbers of a position; its 4 heads unfold them to 4 x (24 + 16)."""
    folder = write_architecture("deepseek_v3", tmp_path / "model")
    (layer, _), itemsize = plan(engine, folder).layers, 4
    assert (layer.key_head_dim, layer.value_head_dim, layer.expanded_head_dims) == (16, 8, (24, 16))
    inspection = plan(engine, folder)
    assert inspection.kv_cache.bytes_per_token == 2 * (16 + 8) * itemsize
    assert inspection.bytes_per_token_full_heads == 2 * 4 * (24 + 16) * itemsize


def test_uneven_layers_and_shared_ones_are_planned_as_they_are(engine, tmp_path, monkeypatch):
    """Gemma 4: full layers have larger heads than those with a window, and the last layers read the keys of earlier ones."""
    kinds = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
    own = {"num_hidden_layers": 4, "num_kv_shared_layers": 2, "layer_types": kinds, "sliding_window": WINDOW}
    own |= {"head_dim": 16, "global_head_dim": 32, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 256}
    monkeypatch.setitem(ARCHITECTURES, "gemma4_text", SIZES | UNTIED | own)
    inspection = assert_planned_as_allocated(engine, write_architecture("gemma4_text", tmp_path / "model"))
    assert [layer.kind for layer in inspection.layers] == [*kinds[:2], "shared", "shared"]
    assert [layer.key_head_dim for layer in inspection.layers] == [16, 32, 0, 0]
    assert [term.layers for term in inspection.formulas[0].terms] == [(0,), (1,)]


def test_a_padding_id_is_no_hindrance(engine, tmp_path):
    """Fine-tuned GPT-2s have one; the model then looked for it among token ids that planning does not have."""
    assert_planned_as_allocated(engine, write_architecture("gpt2", tmp_path / "model", pad_token_id=0))


def test_one_device_of_a_mesh_holds_the_planned_bytes(engine, tiny_llama):
    """Read off the arrays of a real run over two devices, by way of the engine's own sharding."""
    record = run(engine, tiny_llama, mode="jit", tensor_parallel=2)
    inspection = plan(engine, tiny_llama, context_len=record.steps[0].kv[0].capacity, tensor_parallel=2)
    shardings = engine._worker.model.kv_shardings
    held = 0
    for layer, sharding in zip(record.steps[0].kv, shardings, strict=True):
        for shape in (layer.key_shape, layer.value_shape):
            batch, heads, positions, dim = sharding.shard_shape(shape)
            held += batch * heads * positions * dim * DTYPE_BYTES["float32"]
    assert inspection.kv_cache.bytes_per_device == held == inspection.kv_cache.total_bytes // 2
    groups = layer_groups(inspection.layers)
    assert cache_bytes(groups, CacheForm.FIXED, 1, inspection.context_len, "float32", 2).bytes_per_device == held
    weights = engine._worker.model.weights  # buffers too, which are no weights of the plan
    shards = {name: array.addressable_shards[0].data for name, array in weights.items()}
    for tensor in inspection.weights.tensors:
        assert (shards[tensor.name].shape, shards[tensor.name].nbytes) == (tensor.shard_shape, tensor.bytes_per_device)
