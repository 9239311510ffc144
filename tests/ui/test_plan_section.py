"""The Plan section: what its inputs may say, what its answers show, and that nothing in a config becomes markup."""

import asyncio
import html
import json
import re
from dataclasses import replace

import pytest

from hfjax_demo.kv_shapes import DTYPE_BYTES
from hfjax_demo.plots.kv_plan import MAX_MODELS
from hfjax_demo.ui.plan_html import fits_html, formula_html, small_bytes, summary_html
from hfjax_demo.ui.plan_section import FIELDS, FIRST_MODELS, check_fields, make_plans
from tests.test_given_config import LLAMA

pytestmark = pytest.mark.xdist_group("engine")

INPUTS = {
    "models": ["Llama-2-7B"],
    "config": "",
    "context_len": None,
    "batch_size": 1,
    "dtype": "bfloat16",
    "tensor_parallel": 1,
}


def plans(engine, **changes):
    return asyncio.run(make_plans(engine, list((INPUTS | changes).values())))


def plan(engine, name="Llama-2-7B", **changes):
    return plans(engine, models=[name], **changes)[0]


def field_errors(engine, **changes):
    """Field -> message of those that are refused."""
    checks = asyncio.run(check_fields(engine, list((INPUTS | changes).values())))
    return {name: check["message"] for name, check in zip(FIELDS, checks, strict=True) if not check["is_valid"]}


def text_in(markup):
    return html.unescape(re.sub(r"<[^>]+>", "", markup))


def test_what_is_planned_first_is_bundled_and_fits_one_picture(engine):
    assert len(FIRST_MODELS) <= MAX_MODELS
    assert field_errors(engine, models=FIRST_MODELS) == {}
    assert [made.model for made in plans(engine, models=FIRST_MODELS)] == FIRST_MODELS


def test_inputs_in_order_and_an_empty_context_is_the_models_own(engine):
    assert tuple(INPUTS) == FIELDS
    assert plan(engine).context_len == plan(engine, context_len=0).context_len == 4096
    made = plan(engine, context_len=100, batch_size=3, dtype="float32", tensor_parallel=2)
    assert made.kv_cache.total_bytes == 2 * 32 * 32 * 100 * 128 * 4 * 3
    assert made.kv_cache.bytes_per_device * 2 == made.kv_cache.total_bytes


@pytest.mark.parametrize(
    ("changes", "field", "said"),
    [
        ({"models": []}, "models", f"1 to {MAX_MODELS} models but 0 are picked"),
        ({"models": ["Llama-2-7B", "GPT-2", "Llama-3.1-8B", *"abcdefg"]}, "models", "are picked"),
        ({"models": ["nobody/no such"]}, "models", "nobody/no such"),
        ({"context_len": -5}, "context_len", "-5"),
        ({"context_len": 10**12}, "context_len", "1000000000000"),
        ({"batch_size": 0}, "batch_size", "0"),
        ({"batch_size": 10**9}, "batch_size", "1000000000"),
        ({"dtype": "float13"}, "dtype", ", ".join(DTYPE_BYTES)[:8]),
        ({"tensor_parallel": 0}, "tensor_parallel", "0"),
        ({"tensor_parallel": -1}, "tensor_parallel", "-1"),
        ({"config": "{"}, "config", "JSON"),
        ({"config": '{"model_type": "bert", "architectures": ["BertModel"]}'}, "config", "causal"),
        ({"config": json.dumps(LLAMA | {"num_hidden_layers": -2})}, "config", "num_hidden_layers"),
        ({"config": json.dumps(LLAMA | {"hidden_size": 10**18})}, "config", "hidden_size"),
        ({"config": "[1, 2]"}, "config", "object"),
        ({"config": " " * 10_000_000 + "{}"}, "config", "at most"),
    ],
)
def test_bad_input_is_said_at_its_field(engine, changes, field, said):
    errors = field_errors(engine, **changes)
    assert list(errors) == [field]
    assert said in errors[field]
    assert errors[field].endswith(".")


def test_a_pasted_config_stands_for_the_models(engine):
    (made,) = plans(engine, config=json.dumps(LLAMA), context_len=100)
    assert made.kv_cache.total_bytes == 2 * 2 * 2 * 100 * 16 * 2
    assert field_errors(engine, models=[], config=json.dumps(LLAMA)) == {}


def test_the_formula_has_each_factor_and_says_where_it_is_from(engine):
    markup = formula_html(plan(engine, "Llama-3.1-8B", context_len=1000))
    assert "2 × 32 × 8 × 1,000 × 128 × 2 × 1 = 131,072,000 bytes" in text_in(markup)
    assert "num_key_value_heads" in markup
    assert "if every query head had keys and values of its own" in text_in(markup)


def test_a_config_with_windows_has_a_formula_for_each_kind_of_layer(engine):
    said = text_in(formula_html(plan(engine, "Gemma-3-1B", context_len=8192)))
    assert "22 layers: " in said
    assert "4 layers: " in said


def test_the_summary_tells_what_shared_heads_latents_and_windows_save(engine):
    assert "Query heads that share KV heads save a factor of 4:" in text_in(summary_html(plan(engine, "Llama-3.1-8B")))
    assert "One latent for all heads saves" in text_in(summary_html(plan(engine, "DeepSeek-V3")))
    assert "attend to a window of 512 positions" in text_in(summary_html(plan(engine, "Gemma-3-1B", context_len=8192)))
    beyond = text_in(summary_html(plan(engine, "Llama-2-7B", context_len=10_000)))
    assert "made for 4,096 positions" in beyond


def test_what_fits_has_every_device_with_its_source(engine):
    said = text_in(fits_html(plan(engine, "Llama-3.1-405B")))
    assert "the weights alone need" in said
    assert "https://" in said
    assert "yes, " in text_in(fits_html(plan(engine, "GPT-2")))


def test_nothing_in_a_config_becomes_markup(engine):
    hostile = "<img src=x onerror=alert(1)>"
    errors = field_errors(engine, config=json.dumps(LLAMA | {"architectures": [hostile]}))
    assert "config" in errors
    made = plan(engine)
    marked = replace(made, model=hostile, source=hostile, architecture=hostile)
    assert "<img" not in summary_html(marked) + formula_html(marked) + fits_html(marked)


@pytest.mark.parametrize(
    ("num_bytes", "said"), [(512, "512 bytes"), (23_040, "23 kB"), (131_072, "131 kB"), (2_000_000, "2.00 MB")]
)
def test_bytes_of_a_token_keep_three_figures(num_bytes, said):
    assert small_bytes(num_bytes) == said
