"""A request survives its link, and a link from anyone is checked, never believed."""

import random
import urllib.parse
from dataclasses import fields

import pytest

from hfjax_demo.permalink import MAX_QUERY_CHARS, LinkInputs, decode_permalink, encode_permalink
from hfjax_demo.requests import CacheKind, ExecutionMode, GenerationRequest

HOSTILE_TEXTS = [
    "The secret to baking a good cake is",
    "two\nlines\r\nand\ta tab",
    "a=1&b=2#c+d%20e;f?g/h\\i",
    "50% off, 100%",
    "${alert(1)} {{1+1}} `ls` $(ls)",
    "<img src=x onerror=alert(1)>",
    "\"quotes\" and 'quotes'",
    "مرحبا بالعالم",
    "abc \u202e gnp.exe",
    "naïve 日本語 👩‍👩‍👧‍👦 🏳️‍🌈 \U0001f9e0",
    "nul \0 bell \a escape \x1b delete \x7f",
    "  spaces around  ",
    "replaced \ufffd already",
    "&prompt=other&run=1",
]


def random_request(choices):
    mode = choices.choice([*ExecutionMode])
    caches = [*CacheKind] if mode is ExecutionMode.EAGER else [CacheKind.DYNAMIC, CacheKind.STATIC]
    alphabet = "ab %&=+#?;/\\\n\t\0\"'`${}<>é日🧠\u202e\u200d"
    return GenerationRequest(
        prompt="x" + "".join(choices.choices(alphabet, k=choices.randrange(40))),
        model=choices.choice(["SmolLM2", "Qwen/Qwen3-0.6B", "a b&c", "+"]),
        mode=mode,
        cache=choices.choice(caches),
        chat=choices.random() < 0.5,
        max_new_tokens=choices.randrange(1, 10**6),
        ignore_eos=choices.random() < 0.5,
        temperature=choices.choice([0, 1, 0.7, choices.uniform(0, 1e9), 5e-324, 1.7976931348623157e308]),
        top_k=choices.choice([0, 2**31 - 1, choices.randrange(100)]),
        top_p=choices.choice([1, 1e-17, 1 - choices.random()]),
        seed=choices.choice([0, 2**32 - 1, choices.randrange(2**32)]),
        dtype=choices.choice(["float32", "bfloat16", "float16"]),
        tensor_parallel=choices.randrange(1, 9),
        max_cache_len=choices.choice([None, 1, 8192]),
    )


def test_every_field_of_many_requests_survives_its_link():
    choices = random.Random(0)
    for _ in range(500):
        request = random_request(choices)
        inputs = decode_permalink(encode_permalink(request))
        assert inputs.problems == ()
        assert GenerationRequest(**inputs.values) == request


@pytest.mark.parametrize("text", HOSTILE_TEXTS)
def test_a_prompt_and_a_model_name_are_only_ever_text(text):
    query = encode_permalink(GenerationRequest(prompt=text, model=text))
    assert query.isascii()
    assert not set(query) & set(" <>\"'`#\\{}")
    inputs = decode_permalink(query)
    assert inputs.values["prompt"] == inputs.values["model"] == text
    assert not inputs.wants_run


def test_a_link_reads_the_same_from_names_and_values_as_from_the_string():
    query = encode_permalink(GenerationRequest("é & 🧠", mode="eager", temperature=0.7)) + "&embed=1&tab=compare"
    assert decode_permalink(dict(urllib.parse.parse_qsl(query))) == decode_permalink(query) == decode_permalink("?" + query)


def test_a_link_is_written_as_browsers_read_it_and_defaults_stay_out():
    query = encode_permalink(GenerationRequest("a b+c", model="Qwen/Qwen3-0.6B", seed=7))
    assert query == "prompt=a%20b%2Bc&model=Qwen%2FQwen3-0.6B&mode=jit&cache=static&chat=0&max_new_tokens=64&seed=7"


def test_values_have_the_types_of_the_request():
    values = decode_permalink("mode=eager&cache=none&chat=1&temperature=1&top_k=5&max_cache_len=64").values
    assert {name: type(value) for name, value in values.items()} == {
        "mode": ExecutionMode,
        "cache": CacheKind,
        "chat": bool,
        "temperature": float,
        "top_k": int,
        "max_cache_len": int,
    }


def test_a_plus_from_a_browsers_form_is_a_space():
    assert decode_permalink("prompt=a+b%2Bc").values == {"prompt": "a b+c"}


def test_an_empty_link_says_nothing():
    assert decode_permalink("") == decode_permalink({}) == LinkInputs(values={})


def test_unknown_names_are_ignored_silently():
    assert decode_permalink("utm_source=x&__theme=dark&&=&%FF=1&run&prompt=hi") == LinkInputs(values={"prompt": "hi"})


def test_of_a_name_that_comes_twice_the_last_counts():
    assert decode_permalink("seed=1&seed=2").values == {"seed": 2}
    assert decode_permalink("seed=1&seed=two").values == {}


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("prompt=", "at least one character"),
        ("prompt=%20%0A", "at least one character"),
        ("model=", "A model must be named"),
        ("mode=warp", "eager, jit but is 'warp'"),
        ("cache=huge", "none, dynamic, static but is 'huge'"),
        ("chat=yes", "chat must be 1 or 0 in a link but is 'yes'"),
        ("ignore_eos=", "ignore_eos must be 1 or 0 in a link but is ''"),
        ("max_new_tokens=0", "at least 1 but is 0"),
        ("max_new_tokens=5.0", "whole number but is '5.0'"),
        ("max_new_tokens=1_000", "whole number but is '1_000'"),
        ("max_new_tokens=٣", "whole number but is '٣'"),
        ("max_cache_len=None", "whole number but is 'None'"),
        ("seed=4294967296", "but is 4294967296"),
        ("temperature=nan", "finite number but is 'nan'"),
        ("temperature=inf", "finite number but is 'inf'"),
        ("temperature=1e999", "finite number but is inf"),
        ("temperature=warm", "finite number but is 'warm'"),
        ("top_p=0", "above 0 and at most 1"),
        ("dtype=int4", "float32, bfloat16, float16 but is 'int4'"),
        ("tensor_parallel=%00", "whole number but is '\\x00'"),
        ("seed=" + "9" * 5000, "seed may have at most 32 characters in a link but has 5000"),
        ("temperature=0." + "9" * 5000, "temperature may have at most 32 characters in a link but has 5002"),
        ("dtype=" + "x" * 5000, "dtype may have at most 32 characters in a link but has 5000"),
        ("prompt=caf%E9", "must be UTF-8, but byte 3 of prompt is 0xe9"),
        ("model=%ED%A0%80", "must be UTF-8, but byte 0 of model is 0xed"),
        ("prompt=\ud800", "must be UTF-8, but byte 0 of prompt is 0xed"),
    ],
    ids=lambda text: text[:24],
)
def test_a_bad_value_is_left_out_with_its_rule_and_the_rest_kept(query, message):
    inputs = decode_permalink(f"top_k=3&{query}")
    assert inputs.values == {"top_k": 3}
    (problem,) = inputs.problems
    assert message in problem
    assert problem.endswith(".")
    assert "\n" not in problem


def test_a_lone_surrogate_among_decoded_values_is_left_out():
    inputs = decode_permalink({"prompt": "\udcff", "model": "a\ud800", "top_k": "3"})
    assert inputs.values == {"top_k": 3}
    assert len(inputs.problems) == 2


@pytest.mark.parametrize("query", ["mode=jit&cache=none", "cache=none", "mode=warp&cache=none"])
def test_a_cache_that_does_not_go_with_its_mode_is_left_out(query):
    inputs = decode_permalink(query)
    assert "cache" not in inputs.values
    assert "jit needs a cache" in inputs.problems[-1]


@pytest.mark.parametrize(("escape", "text"), [("100%", "100%"), ("%zz", "%zz"), ("%4", "%4"), ("%%41", "%A"), ("%25", "%")])
def test_a_percent_sign_that_begins_no_escape_stands_for_itself(escape, text):
    assert decode_permalink(f"prompt={escape}") == LinkInputs(values={"prompt": text})


def test_a_link_may_be_long_but_not_longer():
    longest = "prompt=" + "x" * (MAX_QUERY_CHARS - 7)
    assert decode_permalink(longest).values == {"prompt": "x" * (MAX_QUERY_CHARS - 7)}
    for longer in (longest + "x", {"prompt": "x" * (MAX_QUERY_CHARS - 5)}):
        inputs = decode_permalink(longer)
        assert inputs.values == {}
        assert "at most 65536 characters but these have 65537" in inputs.problems[0]


def test_what_a_link_asks_of_the_page_is_reported():
    assert decode_permalink("embed=1&run=1&tab=history") == LinkInputs(
        values={}, is_embed=True, tab="history", wants_run=True
    )
    assert decode_permalink("embed=0&run=yes&tab=nowhere") == LinkInputs(values={})
    assert decode_permalink("tab=mesh", tabs=("mesh",)).tab == "mesh"


def test_no_bytes_from_outside_raise():
    choices = random.Random(1)
    names = [field.name for field in fields(GenerationRequest)] + ["embed", "tab", "run", "%", "\ud800"]
    for _ in range(2000):
        noise = "".join(choices.choices("%%%09afAF&=+;#\0\n\udcffé🧠.-e", k=choices.randrange(24)))
        inputs = decode_permalink(f"{choices.choice(names)}={noise}")
        GenerationRequest(**{"prompt": "x"} | inputs.values)
