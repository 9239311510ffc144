"""The operator's limits as settings: read by type from the environment, refused where they make no sense."""

from pathlib import Path

import pytest

from hfjax_demo.errors import InvalidRequestError
from hfjax_demo.settings import Settings


def test_each_variable_is_read_as_its_knobs_type():
    settings = Settings.from_environment(
        {
            "HFJAX_DEMO_MODELS": "SmolLM2, Qwen/Qwen3-0.6B",
            "HFJAX_DEMO_MAX_PROMPT_CHARS": "100",
            "HFJAX_DEMO_MAX_NEW_TOKENS": "20",
            "HFJAX_DEMO_TIME_LIMIT_S": "1.5",
            "HFJAX_DEMO_CACHE_DIR": "~/models",
        }
    )
    assert settings.models == "SmolLM2, Qwen/Qwen3-0.6B"
    assert (settings.max_prompt_chars, settings.max_new_tokens) == (100, 20)
    assert settings.time_limit_s == 1.5
    assert settings.cache_dir == Path.home() / "models"


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "0", "-1.5", "1e999"])
def test_a_time_limit_is_a_positive_finite_number(text):
    with pytest.raises(InvalidRequestError, match=r"HFJAX_DEMO_TIME_LIMIT_S to a positive number") as caught:
        Settings.from_environment({"HFJAX_DEMO_TIME_LIMIT_S": text})
    assert caught.value.field == "time_limit_s"


def test_a_time_limit_that_is_no_number_is_refused_by_its_variable():
    with pytest.raises(InvalidRequestError, match="HFJAX_DEMO_TIME_LIMIT_S must be a number but is 'soon'"):
        Settings.from_environment({"HFJAX_DEMO_TIME_LIMIT_S": "soon"})


@pytest.mark.parametrize("name", ["max_prompt_chars", "max_new_tokens"])
@pytest.mark.parametrize(("text", "message"), [("0", "at least 1 but is 0"), ("1.5", "a whole number but is '1.5'")])
def test_a_count_is_a_positive_whole_number(name, text, message):
    with pytest.raises(InvalidRequestError, match=message) as caught:
        Settings.from_environment({f"HFJAX_DEMO_{name.upper()}": text})
    assert caught.value.field == name


@pytest.mark.parametrize(
    ("models", "listed"),
    [("any", ()), (" Catalog ", ()), ("SmolLM2", ("SmolLM2",)), ("a, b/c ,, d", ("a", "b/c", "d"))],
)
def test_models_are_listed_by_name_or_by_one_word(models, listed):
    assert Settings(models=models).listed_models == listed


@pytest.mark.parametrize("models", ["", " ", ",", "any,SmolLM2", "SmolLM2, CATALOG"])
def test_models_that_name_none_or_mix_a_word_with_names_are_refused(models):
    with pytest.raises(InvalidRequestError, match="HFJAX_DEMO_MODELS") as caught:
        Settings(models=models)
    assert caught.value.field == "models"
