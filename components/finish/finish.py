"""Record a run, however it has ended: its state, the finished steps, and the logs of its pods."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components import console, owner
from components.files import read_jsons, write_json
from components.resume import JOURNAL, STEPS_VARIABLE

_RUN_LABEL = "pipeline/runid"
_ENDS = {"SUCCEEDED": "succeeded", "FAILED": "failed", "CANCELLED": "was cancelled", "CANCELED": "was cancelled"}


def record_run(record: str, *, run_id: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write `run.json` and, on a cluster, `logs/<pod>.log` for every pod of the run.

    A cluster deletes pods with their logs; the artifacts of finished steps are kept anyway. A log that cannot be read
    is listed in `run.json` and is not an error, because only the run's own state counts.

    Args:
        record: the folder to make.
        run_id: KFP's ID of the run, with which its pods are labelled.
        facts: the state and the error of the run.

    Returns:
        The content of `run.json`: the facts, the finished steps if this machine has recorded them, and the names of the
        saved logs and of those that could not be read.
    """
    owner.follow()
    folder = Path(record)
    folder.mkdir(parents=True, exist_ok=True)
    summary: dict[str, Any] = {**facts, "run": run_id}
    if STEPS_VARIABLE in os.environ:
        summary["finished_steps"] = _finished(Path(os.environ[STEPS_VARIABLE]))
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        summary["logs"], summary["logs_missing"] = _save_logs(folder / "logs", run_id)
    write_json(folder / "run.json", summary)
    console.result("finish", _sentence(summary))
    return summary


def _sentence(summary: Mapping[str, Any]) -> str:
    """A sentence for the log on how the run has ended."""
    # On one line, whatever KFP says.
    state, error = (" ".join(str(summary.get(name) or "").split()) for name in ("state", "error"))
    said = f"the run {_ENDS.get(state, f'ended with state {state}')}"
    # KFP's local runner says only that something has failed, and its own name for all steps together.
    said += f" ({error})" if error and not re.fullmatch(r"Task \S+ failed\.", error) else ""
    if "finished_steps" in summary:
        said += f"; {console.count(len(summary['finished_steps']), 'step')} finished"
    if "logs" in summary:
        said += f"; the logs of {console.count(len(summary['logs']), 'pod')} are saved"
        missing = len(summary["logs_missing"])
        said += f", and {missing} could not be read" if missing else ""
    return said


def _finished(steps: Path) -> list[str]:
    return [entry["step"] for entry in read_jsons(steps / JOURNAL) if isinstance(entry.get("step"), str)]


def _save_logs(folder: Path, run_id: str) -> tuple[list[str], list[str]]:
    from components.jobs.cluster_api import ClusterApi, ClusterApiError

    saved: list[str] = []
    missing: list[str] = []
    try:
        api = ClusterApi.in_cluster()
        pods = api.pods(f"{_RUN_LABEL}={run_id}")
    except ClusterApiError as error:
        return saved, [str(error)]
    folder.mkdir(exist_ok=True)
    for pod in pods:
        try:
            (folder / f"{pod.name}.log").write_text(api.log(pod.name, "main"), encoding="utf-8")
            saved.append(pod.name)
        except ClusterApiError as error:
            missing.append(str(error))
    return saved, missing
