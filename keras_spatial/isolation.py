"""An isolated network for the processes of one machine.

TensorFlow's server binds its port on all interfaces, whatever address it is given, and serves anybody who can reach it,
including requests to read and write files. `0.0.0.0` is written into its source
(`tensorflow/core/distributed_runtime/rpc/grpc_server_lib.cc`), and no option changes it. So the processes get a network
namespace that has nothing but the loopback interface.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

OWNERSHIP = Path(__file__).with_name("ownership.py")
NETWORK_VARIABLE = "KERAS_SPATIAL_NETWORK"
ISOLATED, SHARED = "isolated", "shared"
OPEN_PORT = (
    "listens on all network interfaces of this machine without any authentication: everybody who can reach the port "
    "can read and write all files that this user can, and run code as this user. Keep it on a network that you trust; "
    "see SECURITY.md."
)


class IsolationError(RuntimeError):
    """The machine does not let this user make a network of its own."""


def choice(network: str | None) -> str:
    """The kind of network for the processes of one machine: the argument, or else the value of `KERAS_SPATIAL_NETWORK`.

    Raises:
        ValueError: if it is neither "isolated" nor "shared".
    """
    found = network or os.environ.get(NETWORK_VARIABLE) or ISOLATED
    if found not in (ISOLATED, SHARED):
        raise ValueError(
            f"network (or {NETWORK_VARIABLE} in the environment) must be {ISOLATED!r} or {SHARED!r}. "
            f"Received: {found!r}"
        )
    return found


def is_isolated() -> bool:
    """Whether this process has only the loopback interface, so that no other machine can reach its ports."""
    return all(name == "lo" for _, name in socket.if_nameindex())


@contextmanager
def own_network() -> Iterator[tuple[int, ...]]:
    """Make a network that has only a loopback interface, for processes to join.

    Yields:
        The descriptors of its namespaces, in the order in which a process must join them.

    Raises:
        IsolationError: if the network cannot be made.
    """
    holder = subprocess.Popen(
        [sys.executable, "-I", "-S", str(OWNERSHIP), "network"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    found: list[int] = []
    try:
        assert holder.stdout is not None
        names = holder.stdout.readline().split()
        if not names:
            raise IsolationError(_refused(holder.communicate()[1].strip()))
        for name in names:
            found.append(os.open(f"/proc/{holder.pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC))
        holder.communicate()
        yield tuple(found)
    finally:
        for descriptor in found:
            os.close(descriptor)
        if holder.poll() is None:
            holder.kill()
            holder.communicate()


def _refused(reason: str) -> str:
    return (
        "The processes of one machine get a network of their own, because TensorFlow's server in each of them "
        f"{OPEN_PORT} This machine does not let this user make one: {reason or 'no reason given'}. Allow unprivileged "
        "user namespaces (in a container: the system calls unshare and setns), or accept the open ports with "
        f"--network {SHARED} or {NETWORK_VARIABLE}={SHARED}."
    )
