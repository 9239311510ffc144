"""The page served by this process over an engine of the tests, and the ways programs reach it. Knows no browser."""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import httpx
import pytest
from gradio_client import Client
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, Tool

from hfjax_demo.inference.engine import InferenceEngine
from hfjax_demo.ui import serve
from tests.served_app import free_port

ANSWER_WITHIN_S = 120.0
QUIET_WITHIN_S = 60.0

IGNORED_WARNINGS = (
    # Gradio 6.31 sums up its queue's figures, after every call, in ways that pandas 3 will drop.
    "ignore:'future.no_silent_downcasting' is deprecated",
    "ignore:The copy keyword is deprecated",
)


class LivePage:
    """Serves the page on a free port of 127.0.0.1 while its `with` block lasts.

    Attributes:
        engine: serves its requests; not closed with the page.
        url: of the page, without a slash at its end.
        mcp_url: where agents find its tools.
        client: calls the JSON API as `gradio_client` does.
        http: calls it as curl does.
    """

    def __init__(self, engine: InferenceEngine) -> None:
        self.engine = engine

    def __enter__(self) -> "LivePage":
        with contextlib.ExitStack() as stack:
            stack.enter_context(_event_loops_closed_afterwards())
            # Looking for a free port itself, gradio 6.31 leaves a socket open for each that is taken.
            demo = serve.launch(self.engine, server_name="127.0.0.1", server_port=free_port())
            stack.callback(demo.close, verbose=False)
            self.url = demo.local_url.rstrip("/")
            self.mcp_url = f"{self.url}/gradio_api/mcp/"
            self.client = Client(self.url, verbose=False, analytics_enabled=False, download_files=False)
            stack.callback(self.client.close)
            self.http = stack.enter_context(httpx.Client(base_url=self.url, timeout=ANSWER_WITHIN_S, trust_env=False))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def call(self, api_name: str, **arguments: Any) -> Any:
        """The answer of an endpoint: of one that streams, the last object."""
        return self.client.predict(api_name=f"/{api_name}", **arguments)

    @contextlib.contextmanager
    def streamed(self, path: str, body: dict[str, Any]) -> Iterator[Iterator[tuple[str, Any]]]:
        """Starts a call with a POST and reads what comes of it: pairs of an event's name and its data.

        Args:
            path: "call/v2/generate" takes arguments by name, "call/generate" all of them in their order as {"data": [...]}.
            body: of the POST.
        """
        answer = self.http.post(f"/gradio_api/{path}", json=body).raise_for_status()
        with self.http.stream("GET", f"/gradio_api/{path}/{answer.json()['event_id']}") as stream:
            yield _server_sent_events(stream.iter_lines())

    def tools(self) -> list[Tool]:
        """The tools an agent sees."""
        return asyncio.run(self._in_session(lambda session: session.list_tools())).tools

    def call_tool(self, name: str, arguments: dict[str, Any] | None = None, **options: Any) -> CallToolResult:
        """What an agent gets for a call; `options` as of `ClientSession.call_tool`."""
        return asyncio.run(self._in_session(lambda session: session.call_tool(name, arguments, **options)))

    async def _in_session(self, ask: Callable[[ClientSession], Any]) -> Any:
        async with (
            streamable_http_client(self.mcp_url) as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            return await ask(session)

    def wait_until_idle(self) -> None:
        """Waits until the engine runs nothing and nothing waits for it."""
        deadline = time.monotonic() + QUIET_WITHIN_S
        while (status := self.engine.status()).num_running or status.num_waiting:
            assert time.monotonic() < deadline, f"still {status.num_running} running, {status.num_waiting} waiting"
            time.sleep(0.05)


def _server_sent_events(lines: Iterator[str]) -> Iterator[tuple[str, Any]]:
    name = ""
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: ") and name != "heartbeat":
            yield name, json.loads(line.removeprefix("data: "))


@contextlib.contextmanager
def _event_loops_closed_afterwards() -> Iterator[None]:
    """Closes the event loops that gradio 6.31 makes for its locks on the calling thread and leaves open."""
    made, make = [], asyncio.new_event_loop

    def make_and_remember() -> asyncio.AbstractEventLoop:
        loop = make()
        if threading.current_thread() is caller:
            made.append(loop)
        return loop

    caller = threading.current_thread()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "new_event_loop", make_and_remember)
        yield
    asyncio.set_event_loop(None)
    for loop in made:
        loop.close()
