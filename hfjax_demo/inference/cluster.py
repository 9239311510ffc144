"""Several processes, on one machine or many, that form one mesh: how they meet, and how the first leads the others.

Process 0 listens at the coordinator's address. The others come, are checked (same versions, same numbers), and all start
JAX's own distributed runtime together. From then on process 0 tells the others what to do before it does the same itself:
programs over a mesh of all must run in the same order everywhere. A process that ends would leave the others inside a
collective that never returns, so it is noticed here and not there. Knows nothing of models or requests.
"""

import atexit
import contextlib
import functools
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import jax

from hfjax_demo.errors import ClusterError
from hfjax_demo.inference.control_channel import Channel, LostError, Message
from hfjax_demo.inference.environment import installed_versions
from hfjax_demo.settings import Settings

MEET_WITHIN_S = 300.0
"""For every process to arrive: on a cluster, machines are started one after the other."""
HANDSHAKE_WITHIN_S = 10.0
LEAVE_WITHIN_S = 5.0
CONNECT_EVERY_S = 0.2
BROKEN = 2
"""Exit status of a process whose mesh broke: an expected failure."""
MAX_ERROR_CHARS = 500


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


def gather(settings: Settings) -> Leader:
    """Process 0: waits for the others, checks them, and starts JAX's runtime with them.

    Raises:
        ClusterError: the address cannot be listened at, a process is missing, comes twice or differs.
    """
    runtime = _free_address(settings)
    with contextlib.ExitStack() as where_it_fails:
        followers: dict[int, Channel] = {}
        with _listening(settings) as listener:
            for process_id, channel in _arrivals(listener, followers, settings):
                followers[process_id] = channel
                where_it_fails.callback(channel.close)
        for channel in followers.values():
            channel.send(runtime=runtime)
        _start_runtime(runtime, settings)
        where_it_fails.pop_all()
    return Leader(followers)


def join(settings: Settings) -> Channel:
    """Any other process: goes to process 0, is checked, and starts JAX's runtime with the rest.

    Raises:
        ClusterError: process 0 is not there, refuses, or goes before all have come.
    """
    channel = _connected(settings)
    with contextlib.ExitStack() as where_it_fails:
        where_it_fails.callback(channel.close)
        try:
            channel.send(process_id=settings.process_id, num_processes=settings.num_processes, versions=installed_versions())
            answer = channel.receive(MEET_WITHIN_S)
        except LostError as err:
            raise ClusterError(
                f"All {settings.num_processes} processes must meet before any starts, but process 0 at "
                f"{settings.coordinator} is gone: {err}. Its own output says why."
            ) from err
        if "refused" in answer:
            raise ClusterError(str(answer["refused"])[:MAX_ERROR_CHARS])
        _start_runtime(str(answer["runtime"]), settings)
        where_it_fails.pop_all()
    return channel


def _arrivals(listener: socket.socket, arrived: Mapping[int, Channel], settings: Settings) -> Iterator[tuple[int, Channel]]:
    """Each process that comes and is as it should be, until all of them have `arrived`."""
    deadline = time.monotonic() + MEET_WITHIN_S
    while len(arrived) < settings.num_processes - 1:
        listener.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            channel = Channel(listener.accept()[0])
        except TimeoutError as err:
            missing = sorted(set(range(1, settings.num_processes)) - arrived.keys())
            raise ClusterError(
                f"All {settings.num_processes} processes must come within {MEET_WITHIN_S:.0f} s, but {_listed(missing)} did "
                f"not come to {settings.coordinator}. Start each with --coordinator, --num-processes and a --process-id of "
                "its own."
            ) from err
        try:
            hello = channel.receive(HANDSHAKE_WITHIN_S)
        except LostError:
            channel.close()  # no process of ours: a port scan, say
            continue
        if problem := _problem_with(hello, arrived, settings):
            with contextlib.suppress(LostError):
                channel.send(refused=problem)
            channel.close()
            raise ClusterError(problem)
        yield hello["process_id"], channel


def _connected(settings: Settings) -> Channel:
    """A channel to process 0, which may start later than this one."""
    deadline = time.monotonic() + MEET_WITHIN_S
    while True:
        try:
            return Channel(socket.create_connection(settings.coordinator_address, timeout=HANDSHAKE_WITHIN_S))
        except OSError as err:
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"Process 0 must listen at {settings.coordinator} within {MEET_WITHIN_S:.0f} s, but it does not "
                    f"({err.strerror or err}). Start it, or correct --coordinator."
                ) from err
            time.sleep(CONNECT_EVERY_S)


def _tell_nobody(err: ClusterError) -> None:
    """Before `Leader.watch`."""


def leave(status: int) -> NoReturn:
    """Ends the process now, without JAX's own teardown, which waits for processes that may be gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _problem_with(hello: Message, arrived: Mapping[int, Channel], settings: Settings) -> str | None:
    process_id, num_processes = hello.get("process_id"), hello.get("num_processes")
    if num_processes != settings.num_processes:
        return (
            f"All processes must be told the same number of processes, but process 0 was told {settings.num_processes} and "
            f"another {num_processes}. Start each with --num-processes {settings.num_processes}."
        )
    if not isinstance(process_id, int) or not 0 < process_id < settings.num_processes:
        return (
            f"A process id must be from 1 to {settings.num_processes - 1} beside process 0, but one came as {process_id!r}. "
            "Give each an id of its own with --process-id."
        )
    if process_id in arrived:
        return (
            f"Each process needs an id of its own, but two came as process {process_id} of {num_processes}. Give each an id "
            "of its own with --process-id."
        )
    theirs, ours = hello.get("versions"), installed_versions()
    if theirs != ours:
        theirs = theirs if isinstance(theirs, dict) else {}
        differing = [name for name in ours if theirs.get(name) != ours[name]]
        named = ", ".join(f"{name} {theirs.get(name, 'missing')} where process 0 has {ours[name]}" for name in differing)
        return (
            f"All processes must run the same versions, but process {process_id} has {named[:MAX_ERROR_CHARS]}. Install the "
            "same requirements.txt on every machine."
        )
    return None


def _listening(settings: Settings) -> socket.socket:
    host, port = settings.coordinator_address
    try:
        return socket.create_server((host, port), family=_family(host), reuse_port=False)
    except OSError as err:
        raise ClusterError(
            f"Process 0 must listen at the coordinator's address, but cannot at {settings.coordinator} "
            f"({err.strerror or err}). Use an address of the machine it runs on and a free port."
        ) from err


def _free_address(settings: Settings) -> str:
    """Where JAX's own service will listen: a port that is free now, at the coordinator's host."""
    host, _ = settings.coordinator_address
    try:
        with socket.create_server((host, 0), family=_family(host)) as probe:
            return f"{f'[{host}]' if ':' in host else host}:{probe.getsockname()[1]}"
    except OSError as err:
        raise ClusterError(
            f"Process 0 must listen at the coordinator's address, but {host} is none of this machine's "
            f"({err.strerror or err}). Use an address of the machine it runs on."
        ) from err


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _start_runtime(address: str, settings: Settings) -> None:
    # Otherwise a process that ends takes all others with it, and nobody is left to say so.
    jax.config.update("jax_enable_recoverability", True)
    # It would catch SIGTERM, and with it the way to end the app.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            address,
            settings.num_processes,
            settings.process_id,
            cluster_detection_method="deactivate",
            initialization_timeout=round(MEET_WITHIN_S),
            coordinator_bind_address=address,
        )
        jax.devices()  # the devices of all come up together or not at all
    except Exception as err:
        raise ClusterError(
            f"JAX's distributed runtime must start on all {settings.num_processes} processes, but at {address} it did not: "
            f"{str(err).splitlines()[0][:MAX_ERROR_CHARS]} Check that the machines reach each other, and start all again."
        ) from err


def _listed(process_ids: list[int]) -> str:
    words = ", ".join(map(str, process_ids))
    return f"process {words}" if len(process_ids) == 1 else f"processes {words}"
