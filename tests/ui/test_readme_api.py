"""Every example of the README's section on the JSON API is run as it stands, against a live page on another port."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hfjax_demo.events import RunRecord
from hfjax_demo.plain_json import from_dict
from tests.ui.live_page import ANSWER_WITHIN_S, IGNORED_WARNINGS, LivePage

pytestmark = [
    pytest.mark.xdist_group("smollm2"),
    *(pytest.mark.filterwarnings(warning) for warning in IGNORED_WARNINGS),
]

README = (Path(__file__).parent.parent.parent / "README.md").read_text(encoding="utf-8")
DOCUMENTED_URL = "http://127.0.0.1:7860"


@pytest.fixture(scope="module")
def page(engine):
    with LivePage(engine) as page:
        yield page


def blocks():
    """The section's code blocks, each with its language."""
    (section,) = re.findall(r"^## JSON API and tools for agents\n(.*?)(?=^## |\Z)", README, re.DOTALL | re.MULTILINE)
    return re.findall(r"```(\w+)\n(.*?)```", section, re.DOTALL)


def block(language, containing):
    (code,) = [code for tag, code in blocks() if tag == language and containing in code]
    return code


def output_of(command, code, page):
    """What a block prints; it must name the documented address, which is replaced by the live one."""
    assert DOCUMENTED_URL in code
    code = code.replace(DOCUMENTED_URL, page.url)
    ended = subprocess.run([*command, "-c", code], capture_output=True, text=True, timeout=ANSWER_WITHIN_S, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_the_section_has_these_blocks_and_no_other():
    assert [language for language, _ in blocks()] == ["sh", "py", "json", "py"]


def test_curl_streams_a_run(page):
    output = output_of(["bash", "-e", "-o", "pipefail"], block("sh", "curl"), page)
    assert output.count('"type": "StepEvent"') == 8
    assert "event: complete" in output


def test_gradio_client_streams_a_run_and_compares(page):
    lines = output_of([sys.executable], block("py", "gradio_client"), page).splitlines()
    assert [line.split()[0] for line in lines].count("StepEvent") == 8
    assert "The tokens are identical: all 4." in lines[-1]


def test_an_agent_finds_the_tools_where_its_config_says(page):
    config = json.loads(block("json", "mcpServers").replace(DOCUMENTED_URL, page.url))
    assert config["mcpServers"]["hfjax_demo"]["url"] == page.mcp_url
    assert "generate" in {tool.name for tool in page.tools()}


def test_an_agent_gets_an_answer(page):
    event = json.loads(output_of([sys.executable], block("py", "ClientSession"), page))
    assert from_dict(RunRecord, event["record"]).text == "The capital of France is Paris."
