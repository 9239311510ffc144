"""Several processes of ours that form one mesh on this machine: started together, ended together, whatever happens.

Knows command lines and signals; nothing of what the processes compute.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from tests.served_app import REPOSITORY, free_port

END_WITHIN_S = 60.0


class ProcessGroup:
    """Starts processes 1 to N - 1 with its `with` block; process 0 is started by `flags`, by whoever needs it.

    Attributes:
        flags: of process 0.
        followers: the other processes, process 1 first.
    """

    def __init__(self, num_processes: int, devices: int = 1, command: Sequence[str] = ("app.py",)) -> None:
        """Chooses the coordinator's port; starts nothing.

        Args:
            num_processes: N.
            devices: virtual devices of each process.
            command: what each of the others runs, given to Python.
        """
        self._coordinator = f"127.0.0.1:{free_port()}"
        self._command = command
        self._shared = ["--devices", str(devices), "--coordinator", self._coordinator, "--num-processes", str(num_processes)]
        self._ids = range(1, num_processes)
        self.flags = [*self._shared, "--process-id", "0"]
        self.followers: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "ProcessGroup":
        self._folder = tempfile.TemporaryDirectory(prefix="process_group_")
        for process_id in self._ids:
            with self._log(process_id).open("wb") as log:
                self.followers.append(
                    subprocess.Popen(
                        [sys.executable, *self._command, *self._shared, "--process-id", str(process_id)],
                        cwd=REPOSITORY,
                        env=os.environ | {"HF_HUB_OFFLINE": "1"},
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                    )
                )
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None) -> None:
        for follower in self.followers:
            with contextlib.suppress(ProcessLookupError):
                follower.send_signal(signal.SIGKILL)
            follower.wait()
        self._folder.cleanup()

    def wait(self) -> list[int]:
        """Waits until the followers have ended by themselves; their exit statuses."""
        return [follower.wait(END_WITHIN_S) for follower in self.followers]

    def log(self, process_id: int) -> str:
        """What a follower has written so far."""
        return self._log(process_id).read_text(encoding="utf-8", errors="replace")

    def _log(self, process_id: int) -> Path:
        return Path(self._folder.name) / f"{process_id}.txt"
