"""What is kept of a run however it ended: its state, the steps that finished, and the logs of its pods."""

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
    """Write `run.json`, and on a cluster `logs/<pod>.log` of every pod of the run.

    A cluster deletes pods, and their logs with them; artifacts of finished steps stay by themselves. What cannot be
    read is named in `run.json` and fails nothing: the run's own state is what counts.

    Args:
        record: folder to make.
        run_id: KFP's identity of the run, which labels its pods.
        facts: state and error of the run.

    Returns:
        What stands in `run.json`: the facts, the finished steps where this machine recorded them, the saved logs and
        what went wrong with them.
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
    """How the run ended, for a reader of the log."""
    error = str(summary.get("error") or "").strip()
    said = f"the run {_ENDS.get(summary['state'], 'ended with state ' + str(summary['state']))}"
    # KFP's local runner says no more than that something failed, and the name that it has for all of the steps.
    said += f" ({error})" if error and not re.fullmatch(r"Task \S+ failed\.", error) else ""
    if "finished_steps" in summary:
        said += f"; {console.count(len(summary['finished_steps']), 'step')} finished"
    if "logs" in summary:
        said += f"; the logs of {console.count(len(summary['logs']), 'pod')} are saved"
        missing = len(summary["logs_missing"])
        said += f", and {missing} could not be read" if missing else ""
    return said


def _finished(steps: Path) -> list[str]:
    return [entry["step"] for entry in read_jsons(steps / JOURNAL)]


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
