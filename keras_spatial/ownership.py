"""One owner for every folder and every process: locks that name their holder, and processes that end with their parent.

This file uses only the standard library and one thread. The launcher also runs it by its path, without the package, to
prepare each process before its program starts: so it starts in milliseconds, and Linux lets it change its namespaces,
which only a process with a single thread may do.

    ownership.py network
        Make a network that has nothing but the loopback interface, and hold it.
    ownership.py run LIFELINE NAMESPACES PROGRAM...
        Become PROGRAM, inside these namespaces, tied to the lifeline.
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
_PR_SET_DUMPABLE = 4
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_LOOPBACK = b"lo"


class Busy(RuntimeError):
    """Another process holds the lock."""


class NoLocks(OSError):
    """The file system does not support locks, such as Lustre without its option `flock`."""


def lock(path: str | os.PathLike, *, shared: bool = False) -> int:
    """Take a lock that lasts as long as its descriptor is open in this process or any process that has inherited it.

    Linux releases it with the last such process, however that process ends, so no lock is ever left behind. A symbolic
    link is not followed, and a file with a second name is not touched.

    Args:
        path: the path of the lock file. It is made if it does not exist, and contains the name of its last holder.
        shared: whether to share the lock with others that share it, instead of holding it exclusively.

    Returns:
        The file descriptor. Closing it releases the lock. Programs that this process starts inherit it only if they
        are told to.

    Raises:
        Busy: if another process holds the lock. The message names the holder.
        NoLocks: if the file system does not support locks.
        OSError: if the path cannot be opened, or is not a plain file.
    """
    path = Path(path)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):
            raise OSError(
                error.errno, "is a symbolic link, but a lock must be a plain file: remove it", str(path)
            ) from None
        raise
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode) or about.st_nlink != 1:
            raise OSError(
                errno.EINVAL, "is not a plain file with a single name, as a lock must be: remove it", str(path)
            )
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
            raise Busy(f"{path} is held by {holder or 'another process'}") from None
        except OSError as error:
            if error.errno in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
                raise NoLocks(error.errno, "lies on a file system that does not support locks", str(path)) from None
            raise
        if not shared:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} of {socket.gethostname()}\n".encode(), 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def share(descriptor: int) -> None:
    """Turn an exclusive lock of this process into a shared one.

    Raises:
        Busy: if another process took it meanwhile: Linux releases a lock for a moment while it converts it.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Busy("Another process took the lock") from None


def set_aside(path: str | os.PathLike) -> Path:
    """Rename an unreadable file to `<name>.unreadable-<number>`, with the first free number; return its new path."""
    path = Path(path)
    number = 1
    while (aside := path.with_name(f"{path.name}.unreadable-{number}")).exists():
        number += 1
    path.rename(aside)
    return aside


def sync_folder(folder: str | os.PathLike) -> None:
    """Write a folder's list of files to the disk: without this, a power failure can undo a rename."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EROFS, errno.ENOTSUP):  # Not every file system can do this.
            raise
    finally:
        os.close(descriptor)


# The writing ends of this process's lifelines.
_held: set[int] = set()


def lifeline() -> tuple[int, int]:
    """A pipe by which other processes end with this one; see `end_with`.

    Linux ends one process group for each pipe, that of the last process that asked for it. So every process that is to
    end needs a pipe of its own, or opens it again.

    Returns:
        The reading end, and the writing end, which `cut` closes and which no other process gets.
    """
    reading, writing = os.pipe()
    _held.add(writing)
    return reading, writing


def cut(writing: int) -> None:
    """Close the writing end of a lifeline, so that Linux ends the processes that are tied to it."""
    _held.discard(writing)
    os.close(writing)


def _cut_in_child() -> None:
    for writing in _held:
        os.close(writing)
    _held.clear()


# Programs that are started do not inherit it, but a process that Python forks would keep it open.
os.register_at_fork(after_in_child=_cut_in_child)


def end_with(lifeline: int) -> None:
    """Arrange for this process's group to be killed (SIGKILL) as soon as no process holds the writing end of a pipe.

    Linux itself sends the signal, so it comes even when the owner is killed, and while a library holds Python's lock.

    Args:
        lifeline: the reading end of the pipe, which must stay open. If the writing end is closed already, this process
            exits at once.
    """
    flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC | os.O_NONBLOCK)
    try:
        os.read(lifeline, 1)
    except BlockingIOError:
        return
    sys.exit("The process that started this one has ended, so this one ends too.")


def _network() -> None:
    """Make the namespaces, name them on standard output, and hold them until standard input ends."""
    user, group = os.geteuid(), os.getegid()
    try:
        _call("unshare", _CLONE_NEWNET)
        made = "net"
    except PermissionError:
        # Without privileges, a user namespace is needed as well; the user keeps its identity in it.
        _call("unshare", _CLONE_NEWUSER | _CLONE_NEWNET)
        made = "user net"
        _call("prctl", _PR_SET_DUMPABLE, 1, 0, 0, 0)  # Otherwise /proc/self belongs to root.
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
    # PR_SET_PDEATHSIG would end this process alone, as soon as the thread that started it has ended. Then nobody would
    # hold the reading end when the writing end closes, and the processes that this one had started would survive.
    end_with(lifeline)
    os.set_inheritable(lifeline, True)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores these signals, and the program would inherit that.
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(program[0], program)
    except OSError as error:
        sys.exit(f"{program[0]} cannot be run: {error.strerror}")


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
