"""A line of JSON messages between two processes of one mesh, and the word that the other end is gone.

Either end says every few seconds that it is alive; an end that closes is noticed at once, one that is frozen or cut off
after `SILENT_AFTER_S`. Knows nothing of what the messages mean, nor of JAX.
"""

import contextlib
import json
import socket
import threading
from collections.abc import Callable
from typing import Any

Message = dict[str, Any]

ALIVE_EVERY_S = 2.0
SILENT_AFTER_S = 30.0
"""Ten times and more what an end that is alive takes, however busy its machine is."""
MAX_LINE_BYTES = 1 << 24
"""The longest message is a request with its prompt; whoever sends more is no process of ours."""


class LostError(Exception):
    """The other end is gone; the message says how that was noticed."""


class Channel:
    """One end of the line. `receive` until `start`; from then on a thread of its own hands over what comes."""

    def __init__(self, connection: socket.socket) -> None:
        """Takes over a connected socket."""
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a step's message must not wait for another
        self._socket = connection
        self._lines = connection.makefile("rb")
        self._sending = threading.Lock()
        self._is_closed = threading.Event()
        self._is_started = False

    def send(self, **message: Any) -> None:
        """Sends a message; any thread may.

        Raises:
            LostError: the other end is gone.
        """
        line = json.dumps(message).encode() + b"\n"
        try:
            with self._sending:
                self._socket.sendall(line)
        except OSError as err:
            raise LostError(f"the connection broke ({err.strerror or err})") from err

    def receive(self, timeout_s: float | None = None) -> Message:
        """Waits for the next message, by default as long as an end that is alive may be silent.

        Raises:
            LostError: the other end is gone, silent, or sends what is no message.
        """
        timeout_s = timeout_s or SILENT_AFTER_S
        self._socket.settimeout(timeout_s)
        try:
            line = self._lines.readline(MAX_LINE_BYTES)
            message = json.loads(line) if line else None
        except TimeoutError as err:
            raise LostError(f"nothing was heard of it for {timeout_s:.0f} s") from err
        except OSError as err:
            raise LostError(f"the connection broke ({err.strerror or err})") from err
        except ValueError as err:
            raise LostError("it sent what is no message of this program") from err
        if message is None:
            raise LostError("it ended")
        if not isinstance(message, dict):
            raise LostError("it sent what is no message of this program")
        return message

    def start(self, on_message: Callable[[Message], None], on_lost: Callable[[LostError], None]) -> None:
        """Reads on a thread of its own from now on, and says regularly that this end is alive.

        Args:
            on_message: given each message; on the reading thread.
            on_lost: told once that the other end is gone, unless `close` was called before.
        """
        self._is_started = True
        threading.Thread(target=self._read, args=(on_message, on_lost), name="hfjax-channel", daemon=True).start()
        threading.Thread(target=self._say_alive, name="hfjax-alive", daemon=True).start()

    def close(self) -> None:
        """Ends the line; the other end notices at once."""
        self._is_closed.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        if not self._is_started:
            self._lines.close()  # else the reading thread does, which may be inside it

    def _read(self, on_message: Callable[[Message], None], on_lost: Callable[[LostError], None]) -> None:
        with self._lines:
            while True:
                try:
                    message = self.receive()
                except LostError as err:
                    if not self._is_closed.is_set():
                        on_lost(err)
                    return
                if message:
                    on_message(message)

    def _say_alive(self) -> None:
        """Empty messages; that they cannot be sent any more is the reading thread's to notice."""
        while not self._is_closed.wait(ALIVE_EVERY_S):
            try:
                self.send()
            except LostError:
                return
