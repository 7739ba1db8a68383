"""Run a step in this process, or in several on this machine. Only the processes that do its work import TensorFlow."""

import io
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TextIO

from components import storage
from components.jobs.description import Description, JobError
from components.owner import locks


def run_here(job: Description, processes: int) -> Mapping[str, Mapping[str, Any]]:
    """Run a step on this machine.

    Args:
        job: the step. This function sets `facts` and `local_processes`.
        processes: the number of processes. A single one is this process itself.

    Returns:
        What the step's function has returned in the first process.

    Raises:
        JobError: if a process fails; the message has its last lines.
    """
    if processes == 1:
        return job.run(job.places)

    from keras_spatial.launch import launch

    with tempfile.TemporaryDirectory() as folder:
        facts = storage.join(folder, "facts.json")
        description = replace(job, facts=facts, local_processes=processes).write(storage.join(folder, "job.json"))
        output: Any = _Remembering(sys.stdout)
        command = [sys.executable, "-m", "components.jobs.worker", description]
        status = launch(command, processes, output, pass_fds=locks())
        if status:
            raise JobError(f"{job.step} in {processes} processes ended with status {status}:\n{output.verdict()}")
        return storage.read_json(facts) or {}


class _Remembering(io.TextIOBase):
    """A stream that passes text on, and remembers what the launcher reports about a process that failed."""

    def __init__(self, stream: TextIO):
        self._stream, self._text = stream, ""

    def write(self, text: str, /) -> int:
        self._text = (self._text + text)[-100_000:]
        return self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()

    def verdict(self) -> str:
        return "\n".join(line for line in self._text.splitlines() if line.startswith("[launch]"))
