"""Wait for a job of several pods, and show its states, the log of its first process, and any failures."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from components import console
from components.jobs.cluster_api import ClusterApi, ClusterApiError, Pod, Resource
from components.jobs.description import JobError
from components.jobs.manifests import container_name, pod_selector
from components.jobs.settings import JobSettings

_LAST_LINES = 30
_PATIENCE_SECONDS = 300.0
# For how long an admitted job may have fewer pods than nodes: a quota or an admission policy may forbid them.
_CREATION_SECONDS = 600.0
# Pods in these states need the help of a person.
_STUCK = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError")


def outcome(resource: Mapping[str, Any]) -> tuple[str, str]:
    """The state of a job and its message.

    The state is "Complete", which a TFJob calls Succeeded, "Failed", or the latest condition that holds; "" if none
    holds yet.
    """
    conditions = [c for c in (resource.get("status") or {}).get("conditions") or [] if c.get("status") == "True"]
    for condition in conditions:
        if condition["type"] in ("Complete", "Succeeded"):
            return "Complete", str(condition.get("message", ""))
        if condition["type"] == "Failed":
            text = ": ".join(str(condition[k]) for k in ("reason", "message") if condition.get(k))
            return "Failed", text
    return (str(conditions[-1]["type"]), str(conditions[-1].get("message", ""))) if conditions else ("", "")


class Follower:
    """Waits for a job.

    Args:
        api: the API of the cluster.
        resource: the kind of the job.
        name: the name of the job.
        job: the settings of the job.
        step: the name of the step that waits, with which each printed line begins.
        poll: the number of seconds between two looks at the job.
        alive: a function that is called at every look.
    """

    def __init__(
        self,
        api: ClusterApi,
        resource: Resource,
        name: str,
        job: JobSettings,
        step: str,
        poll: float = 10.0,
        alive: Callable[[], None] = lambda: None,
    ):
        self._api, self._resource, self._name, self._job = api, resource, name, job
        self._step, self._poll, self._alive = step, poll, alive
        self._shown: dict[str, str] = {}
        self._lines: set[str] = set()
        self._stuck: dict[str, float] = {}
        self._incomplete: float | None = None
        # The seconds during which no pod ran, and those during which one did.
        self._queued = self._ran = 0.0

    def wait(self) -> None:
        """Return when the job has succeeded.

        Raises:
            JobError: if the job fails, is deleted or runs out of time, or its pods cannot start or are not made. The
                message has the errors of the pods and the last lines of those that failed.
            ClusterApiError: if the API refuses, or cannot be reached for five minutes.
        """
        lost: float | None = None
        before = time.monotonic()
        while True:
            self._alive()
            pods: list[Pod] = []
            try:
                found = self._api.get(self._resource, self._name)
                if found["metadata"].get("deletionTimestamp"):
                    raise ClusterApiError("it is being deleted", 404)
                state, message = outcome(found)
                pods = self._api.pods(pod_selector(self._name, self._job))
                self._report(state, pods)
                lost = None
            except ClusterApiError as error:
                if error.status == 404:
                    raise JobError(f"{self._what} was deleted while it ran. Start the run again.") from error
                # A refusal is final. A server that restarts or gets too many requests answers later.
                lost = lost or time.monotonic()
                refused = 400 <= error.status < 500 and error.status != 429
                if refused or time.monotonic() - lost > _PATIENCE_SECONDS:
                    raise
                console.say(f"{self._step}: {error}; trying again")
                # Whether a pod ran in this time is unknown, so it counts neither as running nor as queued.
                before = time.monotonic()
                time.sleep(self._poll)
                continue
            if state == "Complete":
                return
            if state == "Failed":
                raise JobError(f"{self._what} failed: {message}{self._details(pods)}")
            stuck = self._cannot_start(pods)
            if stuck:
                raise JobError(f"{self._what} cannot start: {stuck}. Correct the cluster file, and compile again.")
            self._check_created(state, pods)
            now = time.monotonic()
            if any(pod.phase != "Pending" for pod in pods):
                self._ran += now - before
            else:
                self._queued += now - before
            before = now
            if self._ran > self._job.timeout:
                raise JobError(
                    f"{self._what} was not done after it had run {self._job.timeout} s. A training resumes at its last "
                    "backup when the run is started again; timeout in the cluster file allows more time."
                    f"{self._details(pods)}"
                )
            if self._queued > self._job.queue_timeout:
                raise JobError(
                    f"{self._what} has waited {self._job.queue_timeout} s for its pods to run, in state "
                    f"{state or 'unknown'!r}; queue_timeout in the cluster file allows more time."
                    f"{self._details(pods)}"
                )
            time.sleep(self._poll)

    def _check_created(self, state: str, pods: list[Pod]) -> None:
        """Raise a JobError if pods have been missing for long and the job does not wait in a queue."""
        if state == "Suspended" or len(pods) >= self._job.nodes:
            self._incomplete = None
            return
        now = time.monotonic()
        self._incomplete = self._incomplete or now
        if now - self._incomplete <= _CREATION_SECONDS:
            return
        try:
            reasons = self._api.events(self._name)
        except ClusterApiError as error:
            reasons = [str(error)]
        raise JobError(
            f"{self._what} has {len(pods)} of {self._job.nodes} pods after {_CREATION_SECONDS:.0f} s; the others were "
            f"never made. {'; '.join(reasons) or 'No event says why.'} A quota, a pod security policy or a missing "
            "operator may be the reason; see `kubectl describe` of the job and its JobSet."
        )

    @property
    def _what(self) -> str:
        return f"{self._resource.kind} {self._name} in namespace {self._api.namespace}"

    def _report(self, state: str, pods: list[Pod]) -> None:
        now = {self._name: state, **{pod.name: f"{pod.phase} {pod.reason}".strip() for pod in pods}}
        for name, text in now.items():
            if text and self._shown.get(name) != text:
                console.say(f"{self._step}: {name}: {text}")
        self._shown = now
        running = [pod for pod in pods if pod.phase != "Pending"]
        if running:
            # Time windows overlap, and lines that were shown already are left out. Pods are sorted by name, so the
            # first one is process 0.
            window = int(2 * self._poll) + 5
            try:
                lines = self._api.recent(running[0].name, container_name(self._job), window)
            except ClusterApiError as error:
                # The container has not written anything yet, or its pod is gone; the next look will show it.
                if error.status in (400, 404):
                    return
                raise
            for line in lines:
                if line not in self._lines:
                    console.say(line.partition(" ")[2])
            self._lines = set(lines)

    def _cannot_start(self, pods: list[Pod]) -> str:
        """Why a pod cannot start, if that has lasted for minutes, because a registry may fail once; otherwise ""."""
        now = time.monotonic()
        reasons = {pod.name: pod.reason for pod in pods if pod.phase == "Pending" and pod.reason.startswith(_STUCK)}
        self._stuck = {name: self._stuck.get(name, now) for name in reasons}
        for name, since in self._stuck.items():
            if now - since >= _PATIENCE_SECONDS:
                return f"pod {name}: {reasons[name]}"
        return ""

    def _details(self, pods: list[Pod]) -> str:
        """The reasons and the last lines of the pods that failed, or of all pods if none failed."""
        failed = [pod for pod in pods if pod.phase == "Failed"] or pods
        parts = []
        for pod in failed:
            parts.append(f"\nPod {pod.name}: {pod.phase}{', ' + pod.reason if pod.reason else ''}")
            if pod.phase == "Pending":
                continue
            try:
                lines = self._api.log(pod.name, container_name(self._job), _LAST_LINES).splitlines()
            except ClusterApiError as error:
                parts.append(f"  (no log: {error})")
                continue
            parts += [f"  {line}" for line in lines[-_LAST_LINES:]]
        return "\n".join(parts)
