"""One owner for every folder and every process: locks that name their holder, and processes that end with their parent.

The standard library alone, and one thread: the launcher runs this file by its path, without the package, as what stands
between it and a program that it starts. It takes milliseconds, and Linux lets only a process of one thread change its
namespaces.

    ownership.py network
        make a network that has nothing but the loopback interface, and hold it
    ownership.py run LIFELINE NAMESPACES PROGRAM...
        become PROGRAM, inside these namespaces, tied to the lifeline
"""

import ctypes
import errno
import fcntl
import os
import signal
import socket
import stat
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_LOOPBACK = b"lo"


class Busy(RuntimeError):
    """Somebody else holds a lock."""


class NoLocks(OSError):
    """The file system knows no locks, as Lustre without its option `flock`."""


def lock(path: str | os.PathLike, *, shared: bool = False) -> int:
    """Take a lock that lasts as long as its descriptor is open in any process that has inherited it.

    Linux drops it with the last such process, however that ends, so no lock is ever left behind. What lies behind a
    symbolic link is not touched, nor a file that has a second name.

    Args:
        path: of the lock's file, which is made, and holds the name of the last holder.
        shared: take part in a lock that others share, instead of having it alone.

    Returns:
        The file descriptor. Closing it gives the lock back. Programs that this process starts inherit it only if they
        are told to.

    Raises:
        Busy: if another process holds it. The message names the holder.
        NoLocks: if the file system knows no locks.
        OSError: if the path cannot be opened, or is no plain file.
    """
    path = Path(path)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):
            raise OSError(error.errno, "is a symbolic link, which a lock never is: remove it", str(path)) from None
        raise
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode) or about.st_nlink != 1:
            raise OSError(
                errno.EINVAL, "is no plain file of a single name, which a lock always is: remove it", str(path)
            )
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
            raise Busy(f"{path} is held by {holder or 'another process'}") from None
        except OSError as error:
            if error.errno in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
                raise NoLocks(error.errno, "lies on a file system that knows no locks", str(path)) from None
            raise
        if not shared:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} of {socket.gethostname()}\n".encode(), 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def share(descriptor: int) -> None:
    """Let others share a lock that this process has had alone.

    Raises:
        Busy: if somebody else was quicker; Linux gives a lock back for a moment while it changes.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Busy("The lock was taken by another process") from None


def set_aside(path: str | os.PathLike) -> Path:
    """Rename a file that cannot be used to `<name>.unreadable-<number>`, with the first number that is free."""
    path = Path(path)
    number = 1
    while (aside := path.with_name(f"{path.name}.unreadable-{number}")).exists():
        number += 1
    path.rename(aside)
    return aside


def sync_folder(folder: str | os.PathLike) -> None:
    """Have the disk hold the names of a folder's files: a rename too is lost with the machine's power without it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EROFS, errno.ENOTSUP):  # File systems that know no such thing.
            raise
    finally:
        os.close(descriptor)


def end_with(lifeline: int) -> None:
    """End this process's group by SIGKILL as soon as nobody holds the writing end of a pipe any more.

    Linux itself sends the signal. So it comes when the owner is killed, and also while a library holds Python's lock.

    Args:
        lifeline: the reading end, which must stay open. If the writing end is closed already, this process exits.
    """
    flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC | os.O_NONBLOCK)
    try:
        os.read(lifeline, 1)
    except BlockingIOError:
        return
    sys.exit("The process that started this one has ended: ending.")


def _network() -> None:
    """Make the namespaces, name them on standard output, and hold them until standard input ends."""
    user, group = os.geteuid(), os.getegid()
    try:
        _call("unshare", _CLONE_NEWNET)
        made = "net"
    except PermissionError:
        # Without privileges: in a user namespace, in which this user stays who it is.
        _call("unshare", _CLONE_NEWUSER | _CLONE_NEWNET)
        made = "user net"
        _call("prctl", _PR_SET_DUMPABLE, 1, 0, 0, 0)  # Else /proc/self belongs to root.
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, struct.pack("16sH14x", _LOOPBACK, 0))
        (flags,) = struct.unpack_from("H", request, 16)
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH14x", _LOOPBACK, flags | _IFF_UP))
    print(made, flush=True)
    sys.stdin.read()


def _run(lifeline: int, namespaces: Sequence[int], program: list[str]) -> None:
    for namespace in namespaces:
        _call("setns", namespace, 0)
        os.close(namespace)
    # The lifeline ends the whole group; this ends the process even if some other process holds the lifeline open.
    _call("prctl", _PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    end_with(lifeline)
    os.set_inheritable(lifeline, True)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and a program would inherit that.
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(program[0], program)
    except OSError as error:
        sys.exit(f"{program[0]}: cannot be run: {error.strerror}")


def _call(name: str, *arguments: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


if __name__ == "__main__":
    if sys.argv[1] == "network":
        try:
            _network()
        except OSError as problem:
            sys.exit(str(problem.strerror))
    else:
        _run(int(sys.argv[2]), [int(n) for n in sys.argv[3].split(",") if n], sys.argv[4:])
