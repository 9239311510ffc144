"""How a comparison goes on the server: two runs in turn, and what is told where one of them cannot be made."""

import asyncio
import json

import pytest

from hfjax_demo.errors import EngineClosedError
from hfjax_demo.requests import GenerationRequest
from hfjax_demo.ui.compare_tab import run_both
from hfjax_demo.ui.components import panel_value
from hfjax_demo.ui.live_panels import LivePanels

REQUEST = GenerationRequest("hello", max_new_tokens=1)


class ClosedEngine:
    """Takes nothing."""

    def submit(self, _):
        raise EngineClosedError("The engine was closed.")


async def updates_of(engine):
    return [update async for update in run_both(engine, LivePanels(), REQUEST, REQUEST)]


def test_a_refused_run_is_said_in_its_panel_and_its_clock_stands_still():
    """The message was a toast alone, and beside it the panel counted the seconds since "sending" for ever."""
    *_, refused, last = asyncio.run(updates_of(ClosedEngine()))
    state = json.loads(refused["left"])
    assert (state["error"], state["has_clock"]) == ("The engine was closed.", False)
    assert last == {"run_id": "", "made": ()}


@pytest.mark.parametrize("text", ["</script><script>alert(1)</script>", "<img>", "a < b"])
def test_a_panels_value_never_looks_like_markup(text):
    """Gradio looks for script tags in what an HTML component is given, and the log warned of a visitor's prompt."""
    value = panel_value({"prompt": text})
    assert "<" not in value
    assert json.loads(value) == {"prompt": text}
