"""A step finds the run that started it, and does not begin if that run has ended."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from components import owner

ROOT = Path(__file__).parents[2]
STEP = "from components import owner; owner.follow(); print('begun', len(owner.locks()))"


def step(**variables):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run([sys.executable, "-c", STEP], env=environment, capture_output=True, text=True, timeout=60)


def test_a_step_shares_the_lock_of_its_run(tmp_path):
    with owner.own(tmp_path / "lock"):
        done = step()
    assert (done.returncode, done.stdout) == (0, "begun 1\n"), done.stderr
    assert owner.LOCK_VARIABLE not in os.environ and owner.LIFELINE_VARIABLE not in os.environ


def test_a_step_without_a_run_runs_by_itself():
    assert step().stdout == "begun 0\n"


def test_no_step_begins_once_its_run_has_ended_the_steps(tmp_path):
    with owner.own(tmp_path / "lock") as end_steps:
        end_steps()
        done = step()
    assert done.returncode == 1 and "has ended" in done.stderr


@pytest.mark.parametrize(
    "address",
    [f"/proc/{2**22 + 1}/fd/3#1:2", f"/proc/{os.getpid()}/fd/0#1:2"],
    ids=["no such process", "a process that has got its number"],
)
def test_a_step_whose_run_is_gone_does_not_begin(tmp_path, address):
    done = step(**{owner.LIFELINE_VARIABLE: address, owner.LOCK_VARIABLE: str(tmp_path / "lock")})
    assert done.returncode == 1 and "The run that started this step has ended" in done.stderr


def test_a_folder_has_one_owner(tmp_path):
    refused = pytest.raises(owner.FolderInUse, match=f"process {os.getpid()} of")
    with owner.own(tmp_path / "lock"), refused, owner.own(tmp_path / "lock"):
        pass
    with owner.own(tmp_path / "lock"):
        pass
