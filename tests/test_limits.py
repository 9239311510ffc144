"""What the operator allows a visitor, at its edges, and how a refusal reads."""

from dataclasses import replace

import pytest

from hfjax_demo.catalog import CATALOG
from hfjax_demo.errors import InvalidRequestError
from hfjax_demo.limits import allowed_catalog, check_devices, check_limits, has_devices, may_type_any_model, offered_models
from hfjax_demo.requests import GenerationRequest
from hfjax_demo.settings import Settings
from hfjax_demo.ui.kv_cache_tab import load_recorded_runs


def refusal(settings, prompt="hi", **fields):
    with pytest.raises(InvalidRequestError) as caught:
        check_limits(GenerationRequest(prompt, **fields), settings)
    assert "\n" not in str(caught.value)
    return caught.value


def test_the_defaults_allow_the_default_request():
    check_limits(GenerationRequest("hi"), Settings())


def test_a_prompt_may_be_as_long_as_the_limit_and_no_longer():
    settings = Settings(max_prompt_chars=10)
    check_limits(GenerationRequest("🧠" * 10), settings)
    error = refusal(settings, "🧠" * 13)
    assert error.field == "prompt"
    assert str(error) == (
        "A prompt may have at most 10 characters here but has 13. Shorten it by 3; the operator raises the limit with "
        "HFJAX_DEMO_MAX_PROMPT_CHARS."
    )


def test_a_request_may_ask_for_as_many_tokens_as_the_limit_and_no_more():
    settings = Settings(max_new_tokens=8)
    check_limits(GenerationRequest("hi", max_new_tokens=8), settings)
    error = refusal(settings, max_new_tokens=9)
    assert error.field == "max_new_tokens"
    assert str(error) == (
        "A request may ask for at most 8 new tokens here but asks for 9. Ask for fewer; the operator raises the limit with "
        "HFJAX_DEMO_MAX_NEW_TOKENS."
    )


def test_any_model_may_be_typed_where_the_operator_says_any():
    settings = Settings(models="Any")
    check_limits(GenerationRequest("hi", model="someone/something"), settings)
    assert may_type_any_model(settings)
    assert allowed_catalog(settings) == CATALOG


def test_catalog_allows_its_models_by_every_spelling_and_no_other():
    settings = Settings(models="catalog")
    for model in CATALOG:
        for spelling in (model.name, model.hub_id, *model.aliases):
            check_limits(GenerationRequest("hi", model=spelling.swapcase()), settings)
    assert refusal(settings, model="someone/something").field == "model"
    assert not may_type_any_model(settings)
    assert allowed_catalog(settings) == CATALOG


def test_a_list_allows_what_it_names_in_every_spelling():
    settings = Settings(models="qwen/QWEN3-0.6b, smollm2, Someone/Something")
    for name in ("SmolLM2-135M-Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct", "Qwen3-0.6B", "someone/SOMETHING"):
        check_limits(GenerationRequest("hi", model=name), settings)
    assert [model.name for model in allowed_catalog(settings)] == ["SmolLM2-135M-Instruct", "Qwen3-0.6B"]
    assert offered_models(settings) == ("SmolLM2-135M-Instruct", "Qwen3-0.6B", "Someone/Something")
    assert not may_type_any_model(settings)


def test_a_refused_model_reads_what_is_allowed_and_how_that_changes():
    error = refusal(Settings(models="GPT-2,someone/something,SOMEONE/something"), model="Qwen3-0.6B")
    assert error.field == "model"
    assert str(error) == (
        "The model must be one of GPT-2, SOMEONE/something here but is 'Qwen3-0.6B'. Pick one of them; the operator changes "
        "the list with HFJAX_DEMO_MODELS."
    )


def test_a_refused_name_is_repeated_in_part_only():
    assert len(str(refusal(Settings(models="GPT-2"), model="x" * 60_000))) < 300


def test_a_mesh_may_have_as_many_devices_as_the_process_and_no_more():
    here = load_recorded_runs()["recorded jit"].environment
    two = replace(here, num_devices=2, backend="cpu")
    check_devices(GenerationRequest("hi", tensor_parallel=2), two)
    check_devices(GenerationRequest("hi", tensor_parallel=3), None)
    for environment, way_out in (
        (two, "Use 2 or less, or start with --devices 3."),
        (replace(two, backend="gpu"), "Use 2"),
    ):
        with pytest.raises(InvalidRequestError, match="3 were asked for but this process has 2 devices") as caught:
            check_devices(GenerationRequest("hi", tensor_parallel=3), environment)
        assert caught.value.field == "tensor_parallel"
        assert way_out in str(caught.value)


def test_a_mesh_over_processes_takes_as_many_devices_of_each():
    here = replace(load_recorded_runs()["recorded jit"].environment, num_devices=8, num_processes=4, backend="cpu")
    assert [size for size in range(1, 12) if has_devices(size, here)] == [1, 2, 4, 8]
    with pytest.raises(InvalidRequestError, match="multiple of the 4 processes up to their 8 devices") as caught:
        check_devices(GenerationRequest("hi", tensor_parallel=12), here)
    assert str(caught.value).endswith("each process has 2 (cpu). Use 8, or start with --devices 3 on each process.")
