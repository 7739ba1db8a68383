"""Several processes, on one or more hosts, as one mesh: starting TensorFlow's collective runtime and checking it.

The same script runs in every process. `initialize` finds the other processes in `TF_CONFIG`, which a Kubernetes
training operator or `python -m keras_spatial.launch` sets; from then on `ks.device_mesh` spans the devices of all.
"""

import errno
import faulthandler
import hashlib
import json
import os
import socket
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.compiler.xla.tsl.protobuf import coordination_config_pb2
from tensorflow.core.protobuf import tensorflow_server_pb2
from tensorflow.python.eager import context  # The collective runtime has no public switch outside tf.distribute.

from keras_spatial import _environment, isolation
from keras_spatial.logical_cpus import make_logical_cpus

# The jobs in `TF_CONFIG` whose tasks compute, in the order in which tf.distribute numbers them.
_JOBS = ("chief", "worker")
# How much later than TensorFlow's own timeout the watchdog acts, so that TensorFlow can first say which process is
# missing.
_GRACE_SECONDS = 5.0
# TensorFlow gives a process up after this much silence, which it measures by the time of day.
_SILENCE_MILLISECONDS = 20_000
# So long that no jump of the clock reaches it, not even one backwards, which TensorFlow takes for 2^64 microseconds.
_ANY_SILENCE_MILLISECONDS = 35 * 10**15
COMMUNICATION_VARIABLE = "KERAS_SPATIAL_COMMUNICATION"
"""Environment variable: the `communication` of `initialize` for programs that do not give it."""
_COMMUNICATIONS = ("auto", "ring", "nccl")


@dataclass(frozen=True)
class Processes:
    """The processes of this job.

    Attributes:
        tasks: the job name and task number of each process, such as `("worker", 0)`.
        rank: the index of this process in `tasks`.
        communication: how messages and all-reduces are sent: `"ring"` (gRPC), `"nccl"`, or `"auto"`.
        timeout: how many seconds a process waits for the others when they must agree, and for each message.
    """

    tasks: tuple[tuple[str, int], ...] = (("localhost", 0),)
    rank: int = 0
    communication: str = "auto"
    timeout: float = 300.0
    _agreements: list[str] = field(default_factory=list, compare=False, repr=False)

    @property
    def count(self) -> int:
        return len(self.tasks)

    @property
    def is_first(self) -> bool:
        """Whether this is process 0, which writes checkpoints, logs and progress."""
        return self.rank == 0

    def device(self, rank: int, kind: str, number: int) -> str:
        """The full name of a device of any process."""
        job, task = self.tasks[rank]
        return f"/job:{job}/replica:0/task:{task}/device:{kind.upper()}:{number}"

    def rank_of(self, device: str) -> int:
        """The rank of the process that a device belongs to; this process if the name does not say."""
        spec = tf.DeviceSpec.from_string(device) if device.startswith("/") else None
        if spec is None or spec.job is None:
            return self.rank
        return self.tasks.index((spec.job, spec.task or 0))

    def agree(self, what: str, facts: Mapping[str, object]) -> None:
        """Compare facts that must be the same in all processes, within a bounded time. Every process must call it.

        Args:
            what: the name of what is compared, for the message, such as `"model"`.
            facts: names and values; values are compared as text.

        Raises:
            RuntimeError: in every process, naming the facts that differ from those of process 0, or the process that
                did not answer.
        """
        mine = {"what": what, **{name: str(value) for name, value in facts.items()}}
        found = [json.loads(text) for text in self.exchange(what, json.dumps(mine))]
        differences = [
            f"  - {name}: process 0 has {_short(first)}, process {rank} has {_short(theirs.get(name))}"
            for rank, theirs in enumerate(found)
            for name, first in {**dict.fromkeys(theirs), **found[0]}.items()
            if theirs.get(name) != first
        ]
        if differences:
            lines = "\n".join(differences)
            raise RuntimeError(
                f"The processes do not agree on the {what}; start all of them with the same program:\n{lines}"
            )

    def agree_on_batch(self, what: str, batch: Any) -> None:
        """Check that all processes were given the same batch. Every process must call it.

        The bytes of tensors and arrays are compared. Each process holds a different part of a `ks.LocalBlocks`, so only
        the whole shape of that is compared.

        Args:
            what: the name of the batch, for the message, such as `"batch 1 of fit"`.
            batch: a structure of tensors, arrays and `ks.LocalBlocks`.

        Raises:
            RuntimeError: in all processes, naming the tensor that differs from that of process 0.
        """
        if self.count > 1:
            leaves = enumerate(tf.nest.flatten(batch))  # A `LocalBlocks` is one leaf: tf.nest does not know the class.
            self.agree(what, {f"tensor {number}": _content(leaf) for number, leaf in leaves if leaf is not None})

    def exchange(self, what: str, text: str) -> list[str]:
        """Get a short text from every process, including this one, ordered by rank. Every process must call it.

        Args:
            what: the name of what is exchanged, for the message if a process does not answer.
            text: the text of this process.

        Raises:
            RuntimeError: if a process does not reach the same point within the timeout.
        """
        if self.count == 1:
            return [text]
        key = f"keras_spatial/{len(self._agreements)}"
        self._agreements.append(what)
        runtime = context.context()
        runtime.set_config_key_value(f"{key}/{self.rank}", text)
        found = []
        for rank in range(self.count):
            try:
                found.append(runtime.get_config_key_value(f"{key}/{rank}", timeout_in_ms=int(1000 * self.timeout)))
            except tf.errors.OpError as error:
                raise RuntimeError(
                    f"Process {rank} of {self.count} did not reach the same point as process {self.rank} (comparing "
                    f"the {what}) within {self.timeout:.0f} s. It has ended, or runs a different program. "
                    f"Received: {error.message}"
                ) from error
        return found


def _content(leaf: Any) -> str:
    """A description that is the same in all processes that were given the same tensor."""
    described = f"shape {tuple(leaf.shape)}, {tf.as_dtype(leaf.dtype).name}"
    if not isinstance(leaf, (tf.Tensor, np.ndarray)):
        return described
    values = np.ascontiguousarray(leaf.numpy() if isinstance(leaf, tf.Tensor) else leaf)
    data = repr(values.tolist()).encode() if values.dtype.hasobject else values.view(np.uint8).data
    return f"{described}, digest {hashlib.sha256(data).hexdigest()[:16]}"


def _short(value: str | None, limit: int = 300) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."


_current = Processes()


def current() -> Processes:
    """The processes of this job; before `initialize`, only this one."""
    return _current


def initialize(
    addresses: Sequence[str] | None = None,
    process_id: int | None = None,
    process_count: int | None = None,
    *,
    communication: str | None = None,
    timeout: float = 300.0,
) -> Processes:
    """Join the other processes of this job. Call it first: before `ks.device_mesh` and before any TensorFlow operation.

    Args:
        addresses: the `"host:port"` of every process, the same list in all processes. By default they are read from
            `TF_CONFIG`, as Kubernetes training operators and `python -m keras_spatial.launch` set it.
        process_id: the index of this process in `addresses`, from 0.
        process_count: the expected number of processes, which is checked against `addresses` or `TF_CONFIG`.
        communication: `"nccl"` for NCCL between GPUs, `"ring"` for gRPC, or `"auto"` for TensorFlow's choice, which is
            gRPC, too. By default it is that of the environment variable `KERAS_SPATIAL_COMMUNICATION`, or else
            `"auto"`. All processes need the same.
        timeout: seconds to wait for the other processes, here and wherever they must agree, and for one message.

    Returns:
        The processes of the job; without `addresses` and `TF_CONFIG` only this one.

    Raises:
        ValueError: if the arguments or `TF_CONFIG` are malformed or contradict each other.
        RuntimeError: if TensorFlow has started already, if this process's port is in use, if a process does not reach a
            comparison in time, or if processes differ in their addresses or in their versions of the code.

    If another process never starts, this one ends with status 1 after `timeout` and says which processes it waited for.

    TensorFlow's server listens on all interfaces and serves anybody who can reach it: see `SECURITY.md`. A warning says
    so, unless this process has a network of its own, as `python -m keras_spatial.launch` gives it, or
    `KERAS_SPATIAL_NETWORK` is `"shared"`, which declares that the network is trusted.

    Example:

    ```python
    ks.initialize()
    mesh = ks.device_mesh("rows:4")  # With four processes: one device of each.
    ```
    """
    global _current
    communication = communication or os.environ.get(COMMUNICATION_VARIABLE) or "auto"
    if communication not in _COMMUNICATIONS:
        raise ValueError(
            f"communication must be one of {_COMMUNICATIONS}, here or in {COMMUNICATION_VARIABLE}. Received: "
            f"{communication!r}"
        )
    if not timeout > 0:
        raise ValueError(f"timeout must be a positive number of seconds. Received: {timeout!r}")
    jobs, job, task = _from_arguments(addresses, process_id) if addresses is not None else _from_environment()
    tasks = tuple((name, number) for name in _JOBS for number in range(len(jobs.get(name, ()))))
    if process_count is not None and process_count != max(len(tasks), 1):
        raise ValueError(
            f"{process_count} processes were asked for, but {'addresses' if addresses is not None else 'TF_CONFIG'} "
            f"names {max(len(tasks), 1)}: {jobs}"
        )
    if len(tasks) <= 1:
        return _current
    if _current.count > 1:
        raise RuntimeError("ks.initialize() was called before: call it only once in every process.")
    processes = Processes(tasks, tasks.index((job, task)), communication, timeout)
    _start(jobs, processes, _silence(timeout, watched=addresses is None and _is_watched(jobs)))
    _current = processes
    processes.agree("cluster", {"addresses": json.dumps(jobs), "timeout": timeout, "communication": communication})
    processes.agree("code", _versions())
    return processes


def _from_arguments(addresses: Sequence[str], process_id: int | None) -> tuple[dict[str, list[str]], str, int]:
    addresses = list(addresses)
    for address in addresses:
        host, _, port = str(address).rpartition(":")
        if not host or not port.isdigit():
            raise ValueError(f"An address is written as 'host:port'. Received: {address!r}")
    if len(set(addresses)) != len(addresses):
        raise ValueError(f"Every process needs an address of its own. Received: {addresses}")
    if process_id is None or not 0 <= process_id < len(addresses):
        raise ValueError(f"process_id must be 0 to {len(addresses) - 1}, or set TF_CONFIG. Received: {process_id!r}")
    return {"worker": addresses}, "worker", process_id


def _from_environment() -> tuple[dict[str, list[str]], str, int]:
    text = os.environ.get("TF_CONFIG", "")
    if not text.strip():
        return {}, "worker", 0
    try:
        config = json.loads(text)
        jobs = {name: list(config["cluster"][name]) for name in _JOBS if name in config["cluster"]}
        job, task = config["task"]["type"], int(config["task"]["index"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            'TF_CONFIG must be JSON such as {"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", '
            f'"index": 0}}}}. Received: {text!r}'
        ) from error
    if job not in jobs or not 0 <= task < len(jobs[job]):
        raise ValueError(f"TF_CONFIG names the task {job!r} {task}, which is not in its cluster. Received: {text!r}")
    return jobs, job, task


def _is_watched(jobs: Mapping[str, Sequence[str]]) -> bool:
    """Whether the launcher has started all processes, so that it notices by itself which one has ended or is stopped.

    That it has started this one is not enough: its program may start a job over several hosts.
    """
    addresses = [address for addresses in jobs.values() for address in addresses]
    return _environment.is_launched() and all(a.startswith("127.0.0.1:") for a in addresses)


def _silence(timeout: float, *, watched: bool) -> int:
    """After how many milliseconds without a heartbeat TensorFlow gives a process up, and with it the job."""
    return _ANY_SILENCE_MILLISECONDS if watched else min(int(1000 * timeout), _SILENCE_MILLISECONDS)


def _start(jobs: Mapping[str, Sequence[str]], processes: Processes, silence: int) -> None:
    """Start TensorFlow as one task of the cluster, with a coordination service that notices lost processes.

    Args:
        jobs: the addresses of the tasks of each job.
        processes: the processes.
        silence: after how many milliseconds a process without a heartbeat is lost.
    """
    runtime = context.context()
    if runtime._context_handle is not None:
        raise RuntimeError(
            "TensorFlow has started already: call ks.initialize() at the top of the program, before ks.device_mesh "
            "and any TensorFlow or Keras operation."
        )
    _check_port(jobs, processes)
    make_logical_cpus(1)
    job, task = processes.tasks[processes.rank]
    leader = "/job:{}/replica:0/task:{}".format(*processes.tasks[0])
    milliseconds = int(1000 * processes.timeout)
    runtime.configure_collective_ops(
        collective_leader=leader,
        scoped_allocator_enabled_ops=(),
        use_nccl_communication=processes.communication == "nccl",
        device_filters=(f"/job:{job}/task:{task}",),
    )
    runtime.configure_coordination_service(
        service_type="standalone",
        service_leader=leader,
        cluster_register_timeout_in_ms=milliseconds,
        heartbeat_timeout_in_ms=silence,
        shutdown_barrier_timeout_in_ms=min(milliseconds, _SILENCE_MILLISECONDS),
        coordinated_jobs=[
            coordination_config_pb2.CoordinatedJob(name=name, num_tasks=len(addresses))
            for name, addresses in jobs.items()
        ],
    )
    # As in tf.distribute, a process sees the cluster for collectives, but runs nothing on another process's devices.
    configuration = runtime.config
    configuration.experimental.collective_group_leader = leader
    configuration.device_filters.append(f"/job:{job}/task:{task}")
    server = tensorflow_server_pb2.ServerDef(
        cluster=tf.train.ClusterSpec(dict(jobs)).as_cluster_def(),
        default_session_config=configuration,
        job_name=job,
        task_index=task,
        protocol="grpc",
    )
    runtime.enable_collective_ops(server)
    # TensorFlow holds Python's global lock while it waits for the others, and its own timeout does not cover a process
    # that never starts: only a watchdog outside Python can end the wait, and with it this process (status 1).
    print(
        f"Process {processes.rank} waits up to {processes.timeout:.0f} s for all {processes.count} processes of "
        f"{dict(jobs)}; it ends if one of them does not start.",
        file=sys.__stderr__,
        flush=True,
    )
    error_file: Any = sys.__stderr__
    faulthandler.dump_traceback_later(processes.timeout + _GRACE_SECONDS, exit=True, file=error_file)
    try:
        runtime.ensure_initialized()
    except tf.errors.OpError as error:
        raise RuntimeError(
            f"Process {processes.rank} could not join the {processes.count} processes within "
            f"{processes.timeout:.0f} s: check that all were started, with these addresses: {dict(jobs)}. "
            f"Received: {error.message}"
        ) from error
    finally:
        faulthandler.cancel_dump_traceback_later()


def _check_port(jobs: Mapping[str, Sequence[str]], processes: Processes) -> None:
    """Raise an error that says what is wrong with this process's port, since TensorFlow's own names no reason.

    Raises:
        ValueError: if the address is malformed.
        RuntimeError: if this process cannot listen on the port.
    """
    job, task = processes.tasks[processes.rank]
    address = jobs[job][task]
    text = address.rpartition(":")[2]
    if not text.isdigit():
        raise ValueError(f"An address is written as 'host:port'. Received: {address!r} for {job} {task}")
    port = int(text)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError as error:
            reason = {
                errno.EADDRINUSE: "another program on this machine uses it, perhaps an earlier run that has not ended",
                errno.EACCES: "this user may not use it",
            }.get(error.errno or 0, str(error))
            raise RuntimeError(
                f"Process {processes.rank} cannot listen on port {port} of its address {address}: {reason}. End that "
                "program, or give the processes other ports."
            ) from error
    if not isolation.is_isolated() and os.environ.get(isolation.NETWORK_VARIABLE) != isolation.SHARED:
        warnings.warn(
            f"Process {processes.rank} (user id {os.getuid()}, port {port}) {isolation.OPEN_PORT} Once it is, set "
            f"{isolation.NETWORK_VARIABLE}={isolation.SHARED} in the environment, and this warning goes away.",
            RuntimeWarning,
            stacklevel=4,
        )


def _versions() -> dict[str, str]:
    digest = hashlib.sha256()
    root = Path(__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return {"tensorflow": tf.__version__, "keras": keras.__version__, "keras_spatial": digest.hexdigest()[:16]}
