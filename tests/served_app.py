"""The real app in a process of its own: started, waited for, asked, ended.

Everything has a limit, and nothing outlives the `with` block: no process, no port, no file. Speaks HTTP and signals; knows
nothing of what is on the page.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

REPOSITORY = Path(__file__).resolve().parent.parent
START_WITHIN_S = 120.0
ANSWER_WITHIN_S = 5.0
END_WITHIN_S = 30.0
TAIL_LINES = 40
FOREIGN_SETTINGS = ("HFJAX_DEMO_", "GRADIO_", "SPACE_", "HF_")
"""Variables of the machine the tests run on that would change the app."""

# A proxy set in the environment would be asked for 127.0.0.1 too.
_HTTP = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Health(NamedTuple):
    """What the health check answered.

    Attributes:
        status: of HTTP; 0 where nothing answered in time.
        body: the JSON object; None where the answer was none, as the page itself is not.
    """

    status: int
    body: dict[str, Any] | None

    @property
    def is_good(self) -> bool:
        return self.status == 200 and self.body is not None


class ServedApp:
    """Serves the app on a free port of 127.0.0.1 while its `with` block lasts.

    Attributes:
        url: of the page, with a slash at its end.
        process: the app; its `returncode` stays readable after the block, -9 if SIGTERM was not enough.
        health_path: asked by `healthz`.
    """

    def __init__(
        self,
        *flags: str,
        environment: Mapping[str, str] | None = None,
        script: str | Path = "app.py",
        health_path: str = "/healthz",
    ) -> None:
        """Chooses the port; starts nothing.

        Args:
            flags: given to the app after --host and --port.
            environment: variables that are set or changed, such as GRADIO_SSR_MODE. XLA_FLAGS is inherited, so that in a
                test the app compiles as quickly as the tests do.
            script: another program with the same flags and health check.
            health_path: where to ask whether the app is ready.
        """
        self.health_path = health_path
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}/"
        self._command = [sys.executable, str(script), "--host", "127.0.0.1", "--port", str(self._port), *flags]
        self._changes = dict(environment or {})
        self._last_log = ""

    def __enter__(self) -> "ServedApp":
        self._folder = tempfile.TemporaryDirectory(prefix="served_app_")
        self._log_path = Path(self._folder.name) / "log.txt"
        try:
            with self._log_path.open("wb") as log:
                self.process = subprocess.Popen(
                    self._command,
                    cwd=REPOSITORY,
                    env=self._environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            self._wait_until_healthy()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None) -> None:
        self._end()

    def healthz(self) -> Health:
        """Asks the health check once."""
        try:
            with _HTTP.open(self.url.rstrip("/") + self.health_path, timeout=ANSWER_WITHIN_S) as answer:
                return Health(answer.status, _json_object(answer.read()))
        except urllib.error.HTTPError as err:
            with err:
                return Health(err.code, _json_object(err.read()))
        except OSError:
            return Health(0, None)

    def log(self) -> str:
        """All that the app has written to stdout and stderr; readable after the block too."""
        return self._log_path.read_text(encoding="utf-8", errors="replace") if self._log_path.exists() else self._last_log

    def log_tail(self) -> str:
        """Its last lines."""
        return "\n".join(self.log().splitlines()[-TAIL_LINES:])

    def _environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN_SETTINGS)}
        ours = {
            "GRADIO_ANALYTICS_ENABLED": "False",
            "GRADIO_SSR_MODE": "False",
            "GRADIO_TEMP_DIR": str(Path(self._folder.name) / "uploads"),
            "HF_HUB_OFFLINE": "1",
            "PYTHONUNBUFFERED": "1",
        }
        return inherited | ours | self._changes

    def _wait_until_healthy(self) -> None:
        deadline = time.monotonic() + START_WITHIN_S
        while not (health := self.healthz()).is_good:
            if self.process.poll() is not None:
                raise RuntimeError(f"The app ended with {self.process.returncode} before it answered:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"No 200 within {START_WITHIN_S:.0f} s but {health}. The app's log:\n{self.log_tail()}")
            time.sleep(0.1)

    def _end(self) -> None:
        """SIGTERM first, as an operator ends it; then SIGKILL for what is left of it and its children."""
        if hasattr(self, "process"):
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(END_WITHIN_S)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self._last_log = self.log()
        self._folder.cleanup()


def free_port() -> int:
    """A TCP port of 127.0.0.1 on which nothing listens at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _json_object(body: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(body)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
