"""What an agent sees of the served page over the Model Context Protocol."""

import json

import pytest

from hfjax_demo.events import RunRecord
from hfjax_demo.plain_json import from_dict
from tests.ui.live_page import IGNORED_WARNINGS, LivePage

pytestmark = [
    pytest.mark.xdist_group("smollm2"),
    *(pytest.mark.filterwarnings(warning) for warning in IGNORED_WARNINGS),
]


@pytest.fixture(scope="module")
def page(engine):
    with LivePage(engine) as page:
        yield page


def answer_of(result):
    """The JSON object of a call that went well."""
    (content,) = result.content
    assert not result.isError, content.text
    return json.loads(content.text)


def test_the_tools_are_the_five_functions_of_the_api(page):
    assert {tool.name for tool in page.tools()} == {"generate", "compare", "kv_cache_shapes", "models", "device_info"}


def test_every_tool_and_every_argument_is_described(page):
    for tool in page.tools():
        assert "JSON object" in tool.description or "The last object" in tool.description, tool.name
        assert tool.inputSchema.get("required", []) == (["prompt"] if tool.name in ("generate", "compare") else [])
        for name, schema in tool.inputSchema["properties"].items():
            assert schema["description"].endswith("."), (tool.name, name)


def test_device_info_answers_in_json(page):
    assert answer_of(page.call_tool("device_info"))["is_alive"] is True


def test_kv_cache_shapes_answers_in_json(page):
    answer = answer_of(page.call_tool("kv_cache_shapes", {"context_len": 64}))
    assert answer["kv_cache"]["layers"][0]["key_shape"] == [1, 3, 64, 64]


@pytest.mark.parametrize("progress", [False, True], ids=["without progress", "with progress"])
def test_generate_answers_with_the_whole_run_in_small(page, progress):
    told = []

    async def on_progress(done, _total, _message):
        told.append(done)

    options = {"progress_callback": on_progress} if progress else {}
    result = page.call_tool("generate", {"prompt": "It is «so»", "max_new_tokens": 3}, **options)
    answer = answer_of(result)
    record = from_dict(RunRecord, answer["record"])
    assert answer["type"] == "FinishedEvent"
    assert (record.request.prompt, len(record.token_ids), record.steps) == ("It is «so»", 3, ())
    assert len(result.content[0].text) < 10_000
    assert bool(told) == progress


def test_compare_answers_with_the_comparison(page):
    arguments = {"prompt": "The sky is", "baseline_mode": "jit", "max_new_tokens": 2}
    assert answer_of(page.call_tool("compare", arguments))["comparison"]["tokens_identical"] is True


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("generate", {"prompt": "hi", "top_p": 2}, "top_p must be above 0 and at most 1 but is 2. Use 1 to turn it off."),
        ("kv_cache_shapes", {"batch_size": 0}, "batch_size must be from 1 to 1000000 but is 0. Use a number in between."),
        ("generate", {"prompt": "hi", "mode": "warp"}, "Input validation error: 'warp' is not one of ['eager', 'jit']"),
    ],
)
def test_a_failure_is_an_error_that_says_the_message_alone(page, name, arguments, message):
    result = page.call_tool(name, arguments)
    assert result.isError
    assert result.content[0].text == message


def test_a_path_is_never_read(page, tiny_llama):
    result = page.call_tool("kv_cache_shapes", {"model": tiny_llama})
    assert result.isError
    assert result.content[0].text.startswith("A path may be used on the command line only")
