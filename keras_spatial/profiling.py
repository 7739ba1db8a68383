"""Measure where the time of a training step goes: local computation, halo exchange, all-reduce and input."""

import json
import os
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2  # The format of TensorFlow's traces.

from keras_spatial import processes
from keras_spatial.engine import halo
from keras_spatial.runtimes import placement

# The operations of a trace are classified by their types and by the name scopes in which this package makes them.
_SCOPES = {halo.SCOPE: "halo", placement.REDUCE_SCOPE: "allreduce"}
_MESSAGES = {
    "CollectiveBcastSendV2": "halo",
    "CollectiveBcastRecvV2": "halo",
    "_Send": "copies between devices",
    "_Recv": "copies between devices",
    "_HostSend": "copies between devices",
    "_HostRecv": "copies between devices",
    "CollectiveReduceV2": "allreduce",
    "CollectiveGatherV2": "allreduce",
}


class Profile(keras.callbacks.Callback):
    """Traces a few steps of `fit` and reports what they spent their time on.

    It writes TensorFlow's trace, which TensorBoard's profile plugin shows, and `breakdown.json`. The breakdown has, in
    seconds per step: `step`, the time from beginning to end; `input`, the time of waiting for the next batch; the time
    of the kernels, summed over threads and devices, by kind: `local computation`, `halo`, `allreduce` and `copies
    between devices`; and `largest`, the ten types of operation that take most of the local computation. The time of a
    message is mostly spent waiting for its other end.

    If there are several processes, each traces itself, into `folder/process-<rank>`.

    Args:
        folder: the folder to write to.
        first: the first step to trace, counted from 0. The default leaves out the first steps, in which TensorFlow
            traces functions and allocates memory.
        steps: the number of steps to trace.

    Attributes:
        breakdown: the content of `breakdown.json`; None until the steps have been traced.

    Raises:
        ValueError: if `first` is negative or `steps` is not positive.

    Example:

    ```python
    profile = ks.Profile("runs/profile")
    model.fit(dataset, callbacks=[profile])
    print(profile.breakdown)
    ```
    """

    def __init__(self, folder: str | os.PathLike, first: int = 3, steps: int = 3):
        super().__init__()
        if first < 0 or steps < 1:
            raise ValueError(f"first must be at least 0 and steps at least 1. Received: first={first}, steps={steps}")
        job = processes.current()
        self.folder = Path(folder) / f"process-{job.rank}" if job.count > 1 else Path(folder)
        self.first, self.steps = first, steps
        self.breakdown: dict[str, Any] | None = None
        self._count = 0
        self._began = self._ended = 0.0
        self._step_seconds: list[float] = []
        self._input_seconds: list[float] = []
        self._tracing = False

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if self._count == self.first and self.breakdown is None:
            tf.profiler.experimental.start(str(self.folder))
            self._tracing = True
        elif self._tracing:
            # Between two steps Keras does little besides getting the next batch.
            self._input_seconds.append(time.perf_counter() - self._ended)
        self._began = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._ended = time.perf_counter()
        self._count += 1
        if self._tracing:
            self._step_seconds.append(self._ended - self._began)
            if len(self._step_seconds) == self.steps:
                self._finish()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        if self._tracing:
            self._finish()
        elif self.breakdown is None:
            print(f"ks.Profile traced nothing: fit had {self._count} steps, and tracing begins with step {self.first}.")

    def _finish(self) -> None:
        tf.profiler.experimental.stop()
        self._tracing = False
        count = len(self._step_seconds)
        traces = sorted(self.folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
        space = xplane_pb2.XSpace()
        space.ParseFromString(traces[-1].read_bytes())
        kinds, types = kernel_seconds(space.planes)
        self.breakdown = {
            "steps": count,
            "step": sum(self._step_seconds) / count,
            "input": sum(self._input_seconds) / max(len(self._input_seconds), 1),
            **{kind: seconds / count for kind, seconds in sorted(kinds.items())},
            "largest": {name: seconds / count for name, seconds in types.most_common(10)},
        }
        (self.folder / "breakdown.json").write_text(json.dumps(self.breakdown, indent=2) + "\n", encoding="utf-8")


def kernel_seconds(planes: Iterable[Any]) -> tuple[Counter[str], Counter[str]]:
    """The seconds that the kernels of a trace took, by kind, and for local computation by type of operation.

    Args:
        planes: the planes of an `XSpace`. Kernels are events named `path:Type`.
    """
    kinds = Counter({"local computation": 0.0, "halo": 0.0, "allreduce": 0.0, "copies between devices": 0.0})
    types: Counter[str] = Counter()
    for plane in planes:
        for line in plane.lines:
            for event in line.events:
                path, colon, kind = plane.event_metadata[event.metadata_id].name.rpartition(":")
                if not colon or not kind.isidentifier() or " " in path or path.endswith(":"):
                    continue
                seconds = event.duration_ps * 1e-12
                name = _kind(path, kind)
                kinds[name] += seconds
                if name == "local computation":
                    types[kind] += seconds
    return kinds, types


def _kind(path: str, operation: str) -> str:
    if operation in _MESSAGES:
        return _MESSAGES[operation]
    return next((name for scope, name in _SCOPES.items() if scope in path), "local computation")
