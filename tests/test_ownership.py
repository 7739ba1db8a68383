"""Locks name their holder and are released with the last process that holds them; processes end with their owner."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import warnings

import pytest
from alive import gone

from keras_spatial import ownership

SCRIPT = ownership.__file__
HOLD = (
    f"import runpy, time; runpy.run_path({SCRIPT!r})['lock']({{path!r}}); print('locked', flush=True); time.sleep(60)"
)


def python(program, **options):
    return subprocess.Popen([sys.executable, "-I", "-S", "-c", program], stdout=subprocess.PIPE, text=True, **options)


def test_a_lock_is_refused_by_the_name_of_its_holder_and_ends_with_it(tmp_path):
    path = tmp_path / "lock"
    holder = python(HOLD.format(path=str(path)))
    assert holder.stdout.readline() == "locked\n"
    with pytest.raises(ownership.Busy, match=f"process {holder.pid} of "):
        ownership.lock(path)
    holder.kill()
    holder.wait()
    os.close(ownership.lock(path))


def test_a_shared_lock_lasts_until_its_last_holder_has_ended(tmp_path):
    path = tmp_path / "lock"
    first = ownership.lock(path)
    ownership.share(first)
    second = python("input()", stdin=subprocess.PIPE, pass_fds=[third := ownership.lock(path, shared=True)])
    os.close(first)
    os.close(third)
    with pytest.raises(ownership.Busy):
        ownership.lock(path)
    second.communicate("\n")
    os.close(ownership.lock(path))


def symbolic_link(path, target):
    path.symlink_to(target)


def hard_link(path, target):
    path.hardlink_to(target)


@pytest.mark.parametrize("link", [symbolic_link, hard_link])
def test_what_a_lock_is_linked_to_is_never_touched(tmp_path, link):
    target = tmp_path / "precious"
    target.write_text("weights")
    link(tmp_path / "lock", target)
    with pytest.raises(OSError, match=r"(symbolic link|single name).*remove it"):
        ownership.lock(tmp_path / "lock")
    assert target.read_text() == "weights"


def test_a_lock_that_is_a_pipe_is_refused_and_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "lock")
    with pytest.raises(OSError, match="not a plain file"):
        ownership.lock(tmp_path / "lock")


def test_what_is_set_aside_never_replaces_what_was(tmp_path):
    for number in (1, 2):
        (tmp_path / "backup.npz").write_text(str(number))
        assert ownership.set_aside(tmp_path / "backup.npz").name == f"backup.npz.unreadable-{number}"
    assert (tmp_path / "backup.npz.unreadable-1").read_text() == "1"


CHILDREN = f"""
import os, subprocess, sys, time
lifeline, owned = os.pipe()
program = [sys.executable, "-c", "import os, subprocess, time; p = subprocess.Popen(['sleep', '60']); "
           "print(os.getpid(), p.pid, flush=True); time.sleep(60)"]
subprocess.Popen([sys.executable, "-I", "-S", {SCRIPT!r}, "run", str(lifeline), "", *program], pass_fds=[lifeline],
                 start_new_session=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP, signal.SIGTERM])
@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
def test_children_and_their_children_end_with_their_owner(number, stopped):
    owner = python(CHILDREN)
    child, grandchild = map(int, owner.stdout.readline().split())
    if stopped:
        os.kill(child, signal.SIGSTOP)
    owner.send_signal(number)
    assert gone(child) and gone(grandchild)
    owner.wait()


def test_a_child_lives_as_long_as_its_owner_and_not_as_the_thread_that_started_it():
    reading, writing = ownership.lifeline()
    command = [sys.executable, "-I", "-S", SCRIPT, "run", str(reading), "", "sleep", "60"]
    started = []
    thread = threading.Thread(
        target=lambda: started.append(subprocess.Popen(command, pass_fds=[reading], start_new_session=True))
    )
    thread.start()
    thread.join()
    os.close(reading)
    with pytest.raises(subprocess.TimeoutExpired):
        started[0].wait(1)
    ownership.cut(writing)
    assert started[0].wait(5) == -signal.SIGKILL


def test_a_process_that_the_owner_forks_does_not_keep_its_children_alive():
    reading, writing = ownership.lifeline()
    fork = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python warns of forks beside threads.
        fork.start()
    try:
        ownership.cut(writing)
        assert os.read(reading, 1) == b""
    finally:
        fork.kill()
        fork.join()
        os.close(reading)


def test_a_child_of_an_owner_that_has_ended_does_not_begin(tmp_path):
    lifeline, owned = os.pipe()
    os.close(owned)
    command = [sys.executable, "-I", "-S", SCRIPT, "run", str(lifeline), "", "touch", str(tmp_path / "begun")]
    done = subprocess.run(command, pass_fds=[lifeline], start_new_session=True, capture_output=True, text=True)
    os.close(lifeline)
    assert done.returncode == 1 and "has ended" in done.stderr
    assert not (tmp_path / "begun").exists()
