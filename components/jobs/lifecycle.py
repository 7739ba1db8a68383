"""Create and delete the objects of a job, in spite of finalizers, stale caches and servers that restart."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from components import console
from components.jobs.cluster_api import ClusterApi, ClusterApiError, Resource
from components.jobs.follow import outcome
from components.jobs.manifests import Part

PATIENCE_SECONDS = 600.0
"""For how many seconds a finalizer, a webhook or the API server may delay the creation of a job."""
_LONGEST_PAUSE = 30.0

# Kubeflow Trainer's webhook looks up a TrainJob's runtime in a cache, and refuses the job with status 403 if the cache
# does not have it yet (kubeflow/trainer v2.0.0 to v2.3.0, pkg/runtime/core/trainingruntime.go, ValidateObjects).
_STALE_CACHE = "specified trainingRuntime must be created before the TrainJob is created"


class Lifecycle:
    """Creates and deletes the objects of one job.

    Args:
        api: the API of the cluster.
        name: the name of the job and of all its objects.
        parts: the objects, as `manifests.objects` returns them; the job itself is the last one.
        step: the name of the step that launches the job, with which each printed line begins.
        first_pause: the number of seconds before the first repetition; each later pause is twice as long.
        patience: for how many seconds to repeat; `PATIENCE_SECONDS` by default.
    """

    def __init__(
        self,
        api: ClusterApi,
        name: str,
        parts: Sequence[Part],
        step: str,
        first_pause: float = 1.0,
        patience: float | None = None,
    ):
        self._api, self._name, self._parts, self._step = api, name, parts, step
        self._first_pause = first_pause
        self._patience = PATIENCE_SECONDS if patience is None else patience
        self._creating = False
        self._end: Exception | None = None

    @property
    def _kind(self) -> Resource:
        return self._parts[-1][0]

    def ensure(self) -> bool:
        """Create the objects, unless the job of an earlier attempt is still running.

        Returns:
            Whether the objects are new.

        Raises:
            ClusterApiError: if Kubernetes refuses, or is not ready after `patience` seconds.
        """
        if self._running():
            found = f"{self._kind.kind} {self._name} of an earlier attempt"
            console.say(f"{self._step}: {found} is running; waiting for it")
            return False
        self.remove()
        for resource, _ in reversed(self._parts):
            self._until_gone(resource)
        for part in self._parts:
            self._create(part)
        return True

    def interrupt(self, end: Exception) -> None:
        """Let `ensure` end with an error: at once, or as soon as a pending request for an object is answered.

        A deletion that is sent before that answer may overtake it, and find nothing to delete.
        """
        if not self._creating:
            raise end
        self._end = end

    def remove(self) -> None:
        """Delete the objects, beginning with the job; Kubernetes ends them in the background."""
        for resource, _ in reversed(self._parts):
            self._api.delete(resource, self._name)

    def _exists(self, resource: Resource) -> bool:
        try:
            return not self._api.get(resource, self._name)["metadata"].get("deletionTimestamp")
        except ClusterApiError as error:
            if error.status == 404:
                return False
            raise

    def _running(self) -> bool:
        try:
            found = self._api.get(self._kind, self._name)
        except ClusterApiError as error:
            if error.status == 404:
                return False
            raise
        # A job that is being deleted may still have the state of a running one.
        return not found["metadata"].get("deletionTimestamp") and outcome(found)[0] not in ("Failed", "Complete")

    def _until_gone(self, resource: Resource) -> None:
        """Wait until an object is gone, because its name stays taken until its finalizers have run."""

        def gone() -> bool:
            try:
                self._api.get(resource, self._name)
            except ClusterApiError as error:
                if error.status == 404:
                    return True
                raise
            return False

        self._repeat(gone, f"{resource.kind} {self._name} of an earlier attempt is still being deleted")

    def _create(self, part: Part) -> None:
        resource, body = part

        def made() -> bool:
            try:
                self._send(resource, body)
            except ClusterApiError as error:
                if error.status != 409:
                    raise
                # Either a request whose answer was lost has created it, or an older one is still being deleted.
                return self._exists(resource)
            return True

        self._repeat(made, f"{resource.kind} {self._name} cannot be made yet")

    def _send(self, resource: Resource, body: Mapping[str, Any]) -> None:
        self._creating = True
        try:
            self._api.create(resource, body)
        finally:
            self._creating = False
            if self._end is not None:
                raise self._end

    def _repeat(self, done: Callable[[], bool], what: str) -> None:
        deadline, pause, said = time.monotonic() + self._patience, self._first_pause, ""
        while True:
            reason: ClusterApiError | None = None
            try:
                if done():
                    return
            except ClusterApiError as error:
                if not passes(error):
                    raise
                reason = error
            text = f"{self._step}: {what}{f': {reason}' if reason else ''}; trying again"
            if text != said:
                console.say(text)
                said = text
            if time.monotonic() >= deadline:
                raise reason or ClusterApiError(
                    f"{what} after {self._patience:.0f} s, in namespace {self._api.namespace}. Look at its finalizers; "
                    f"the controller that should remove them may be down.",
                    409,
                )
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


def passes(error: ClusterApiError) -> bool:
    """Whether the next attempt may succeed: the API did not answer, is overloaded or is restarting, or a webhook
    cannot be reached or reads a stale cache.
    """
    return error.status in (0, 409, 429) or error.status >= 500 or _STALE_CACHE in str(error)
