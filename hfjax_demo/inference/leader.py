"""Process 0's side of several that form one mesh: it tells the others what to do, and notices when one is gone.

It tells them before it does the same itself: programs over a mesh of all must run in the same order everywhere. A process
that ends would leave the others inside a collective that never returns, so it is noticed here and not there. Knows nothing
of what it is that they do.
"""

import atexit
import contextlib
import functools
import threading
from collections.abc import Callable
from typing import Any

import jax

from hfjax_demo.errors import ClusterError
from hfjax_demo.inference.cluster import BROKEN, leave
from hfjax_demo.inference.control_channel import Channel, LostError, Message

LEAVE_WITHIN_S = 5.0


class Leader:
    """Process 0's side: tells the others what to do, waits for their word, and notices when one is gone."""

    def __init__(self, followers: dict[int, Channel]) -> None:
        """Takes the channels by process id; `watch` starts reading them."""
        self._followers = followers
        self._numbers = 0
        self._answered = threading.Condition()
        self._answers: dict[int, Message] = {}
        self._gone: set[int] = set()
        self._is_closing = False
        self._broken: ClusterError | None = None
        self._on_broken: Callable[[ClusterError], None] = _tell_nobody

    @property
    def num_processes(self) -> int:
        """All of them, this one included."""
        return len(self._followers) + 1

    def watch(self, on_broken: Callable[[ClusterError], None]) -> None:
        """Starts to listen to the others; `on_broken` is told once, on another thread, when one of them is gone."""
        self._on_broken = on_broken
        for process_id, channel in self._followers.items():
            channel.start(functools.partial(self._hear, process_id), functools.partial(self._lose, process_id))

    def tell(self, do: str, **data: Any) -> int:
        """Tells every other process to `do` something, and returns the number to wait for.

        Raises:
            ClusterError: one of them is gone.
        """
        self._numbers += 1
        for process_id, channel in self._followers.items():
            try:
                channel.send(do=do, number=self._numbers, **data)
            except LostError as err:
                self._lose(process_id, err)
        self._check()
        return self._numbers

    def wait(self, number: int, while_waiting: Callable[[], None]) -> None:
        """Waits until every other process has done what it was told under `number`.

        Args:
            number: what `tell` returned.
            while_waiting: called ten times a second; may raise to give up waiting.

        Raises:
            ClusterError: one of them could not do it, or is gone.
        """
        with self._answered:
            while any(self._answers.get(process_id, {}).get("number", 0) < number for process_id in self._followers):
                self._check()
                while_waiting()
                self._answered.wait(0.1)
            for process_id, answer in self._answers.items():
                if answer["number"] == number and answer.get("error"):
                    raise ClusterError(
                        f"Every process of a mesh must do the same, but process {process_id} of {self.num_processes} could "
                        f"not: {answer['error']}"
                    )

    def verdict(self, within_s: float) -> ClusterError | None:
        """Why the mesh is broken, if that is known in so many seconds: a collective may fail before its cause is seen."""
        with self._answered:
            self._answered.wait_for(lambda: self._broken is not None, within_s)
        return self._broken

    def close(self) -> None:
        """Tells the others to end, waits a little until they have, and leaves JAX's runtime.

        Where one was lost before, this process ends without JAX's own teardown, which would wait for it.
        """
        self._is_closing = self._broken is None
        with contextlib.suppress(ClusterError):
            self.tell("quit")
        if self._is_closing:
            with self._answered:
                self._answered.wait_for(lambda: len(self._gone) == len(self._followers), LEAVE_WITHIN_S)
        for channel in self._followers.values():
            channel.close()
        if self._is_closing:
            jax.distributed.shutdown()
        else:
            atexit.register(leave, BROKEN)

    def _check(self) -> None:
        if self._broken is not None:
            raise self._broken

    def _hear(self, process_id: int, message: Message) -> None:
        with self._answered:
            self._answers[process_id] = message
            self._answered.notify_all()

    def _lose(self, process_id: int, how: LostError) -> None:
        last_words = self._answers.get(process_id, {}).get("last_words", "")
        err = ClusterError(
            f"A mesh needs all its {self.num_processes} processes, but process {process_id} is gone: "
            f"{last_words or how}. Start all of them again."
        )
        with self._answered:
            self._gone.add(process_id)
            is_news = self._broken is None and not self._is_closing
            if is_news:
                self._broken = err
            self._answered.notify_all()
        if is_news:
            self._on_broken(err)


def _tell_nobody(err: ClusterError) -> None:
    """Before `Leader.watch`."""
