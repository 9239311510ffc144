"""What panels show while runs stream, straight from the server to them: of each panel its latest value, nothing older.

Through a component a value costs the visitor's page 15 ms, because Gradio then looks through everything else on it: so a
component is told at the beginning, at the end, and now and then in between, and its panel reads every token here, as
server-sent events. Belongs to the server's event loop; knows nothing of runs.
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

LIVE_PATH = "/gradio_api/live/{name}"
"""Below Gradio's own prefix, which its Node process passes on where it renders on the server."""
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""For proxies that would keep events, or hold them back."""
END = "event: end\ndata:\n\n"


@dataclass
class LivePanel:
    """One panel's latest value, on its way to whoever reads it.

    Attributes:
        name: cannot be guessed: who knows it may read what a visitor asks and is answered.
    """

    name: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    _value: str = ""
    _has_news: asyncio.Event = field(default_factory=asyncio.Event)
    _is_over: bool = False

    def show(self, value: str) -> None:
        """Puts a value, one line of text, in place of the last."""
        self._value = value
        self._has_news.set()

    def end(self) -> None:
        """Lets the reader go: the last value comes through the component."""
        self._is_over = True
        self._has_news.set()

    async def events(self) -> AsyncIterator[str]:
        """Server-sent events: the latest value whenever there is a new one, and an end."""
        while not self._is_over:
            await self._has_news.wait()
            self._has_news.clear()
            if self._value and not self._is_over:
                yield f"data: {self._value}\n\n"
        yield END


class LivePanels:
    """The panels that stream now, by name."""

    def __init__(self) -> None:
        """None yet."""
        self._panels: dict[str, LivePanel] = {}

    @contextlib.contextmanager
    def opened(self) -> Iterator[LivePanel]:
        """A new panel that can be read while the block lasts."""
        panel = LivePanel()
        self._panels[panel.name] = panel
        try:
            yield panel
        finally:
            del self._panels[panel.name]
            panel.end()

    async def answer(self, request: Request) -> Response:
        """The HTTP answer to whoever asks for a panel: its events; of a run that is over, or never was, the end alone."""
        panel = self._panels.get(request.path_params["name"])
        events = panel.events() if panel else _nothing()
        return StreamingResponse(events, media_type="text/event-stream", headers=HEADERS)


async def _nothing() -> AsyncIterator[str]:
    yield END
