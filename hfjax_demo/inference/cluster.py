"""Several processes, on one machine or many, meet to form one mesh.

Process 0 listens at the coordinator's address. The others come, are checked (same versions, same numbers), and all start
JAX's own distributed runtime together. What differs is told on both sides before JAX could fail at it. Knows nothing of what
they do together (`leader`, `follower`).
"""

import contextlib
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from typing import NoReturn

import jax

from hfjax_demo.errors import ClusterError
from hfjax_demo.inference.control_channel import Channel, LostError, Message
from hfjax_demo.inference.environment import installed_versions
from hfjax_demo.settings import Settings

MEET_WITHIN_S = 300.0
"""For every process to arrive: on a cluster, machines are started one after the other."""
HANDSHAKE_WITHIN_S = 10.0
CONNECT_EVERY_S = 0.2
BROKEN = 2
"""Exit status of a process whose mesh broke: an expected failure."""
MAX_ERROR_CHARS = 500


def gather(settings: Settings) -> dict[int, Channel]:
    """Process 0: waits for the others, checks them, and starts JAX's runtime with them.

    Returns:
        A channel to each, by process id.

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
        for process_id, channel in followers.items():
            try:
                channel.send(runtime=runtime)
            except LostError as err:
                raise ClusterError(
                    f"All {settings.num_processes} processes must meet before any starts, but process {process_id} came and "
                    f"is gone: {err}. Its own output says why; start all again."
                ) from err
        _start_runtime(runtime, settings)
        where_it_fails.pop_all()
    return followers


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
