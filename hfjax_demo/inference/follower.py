"""The life of a process that is not process 0: it does what it is told, until it is told to end or process 0 is gone.

Serves nobody and decides nothing. What fails here fails in process 0 as well, for the same reason; where it does not, the
answer to the message says so, or the process ends and its last words are passed on.
"""

import logging
import queue
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

import jax

from hfjax_demo.errors import HfJaxDemoError
from hfjax_demo.inference.cluster import BROKEN, join, leave
from hfjax_demo.inference.control_channel import Channel, LostError, Message
from hfjax_demo.inference.environment import configure_devices
from hfjax_demo.inference.loaded_model import ModelKey
from hfjax_demo.inference.worker import Worker
from hfjax_demo.requests import GenerationRequest
from hfjax_demo.settings import Settings

logger = logging.getLogger(__name__)
FAILED = 1
INTERRUPTED = 130
"""Exit statuses."""
MAX_LAST_WORDS = 200


def follow(settings: Settings) -> None:
    """Meets process 0 and follows it; returns when process 0 says so, and ends the process when process 0 is gone.

    Raises:
        ClusterError: process 0 is not there or refuses.
    """
    configure_devices(settings.devices)
    channel = join(settings)
    messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
    channel.start(messages.put, lambda err: _leader_is_gone(settings, err))
    worker = Worker(settings)
    try:
        _obey(worker, messages, channel, settings.process_id)
    except KeyboardInterrupt:
        leave(INTERRUPTED)
    worker.free()
    jax.distributed.shutdown()
    channel.close()


def _obey(worker: Worker, messages: "queue.SimpleQueue[Message]", channel: Channel, process_id: int) -> None:
    """Does what each message says, until one says to quit."""
    commands = _commands(worker)
    while (message := messages.get())["do"] != "quit":
        data = {name: value for name, value in message.items() if name not in ("do", "number")}
        error = None
        try:
            commands[message["do"]](**data)
        except HfJaxDemoError as err:
            error = str(err)
        except Exception as err:
            logger.exception("process %d could not %s", process_id, message["do"])
            last_line = traceback.format_exception_only(err)[-1].strip()
            _answer(channel, number=0, last_words=f"it failed ({last_line[:MAX_LAST_WORDS]})")
            leave(FAILED)
        _answer(channel, number=message["number"], error=error)


def _commands(worker: Worker) -> dict[str, Callable[..., Any]]:
    """What process 0 may say, as this process does it."""

    def record(name: str) -> None:
        worker.record(name, "", 0.0)  # for the programs that it runs: process 0 has the record itself

    return {
        "load": lambda model: worker.load(ModelKey(**model), _tell_nobody),
        "start": lambda name, request: worker.start(name, GenerationRequest(**request), _tell_nobody),
        "advance": worker.advance,
        "record": record,
        "end": worker.end,
        "free": worker.free,
    }


def _answer(channel: Channel, **answer: Any) -> None:
    """Process 0 may be gone by now; then `_leader_is_gone` ends this process."""
    try:
        channel.send(**answer)
    except LostError:
        logger.info("no answer could be given")


def _leader_is_gone(settings: Settings, err: LostError) -> NoReturn:
    """Ends the process from the reading thread: the main thread may be inside a collective that never returns."""
    sys.stderr.write(
        f"error: A mesh needs all its {settings.num_processes} processes, but process 0 is gone: {err}. Start all of them "
        "again.\n"
    )
    leave(BROKEN)


def _tell_nobody(*_: object) -> None:
    """Process 0 tells its callers what is happening; here nobody asked."""
