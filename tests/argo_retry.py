"""The rule by which Argo's controller tries a step again, and KFP's translation into it.

Written from argoproj/argo-workflows v4.0.5, `workflow/controller/operator.go`: `processNodeRetries` (limit, pauses,
`maxDuration`, policy), `inferFailedReason` and `podReconciliation` (which states of a pod are failures, and which are
errors); and kubeflow/pipelines 2.17.0, `backend/src/v2/compiler/argocompiler/container.go`:
`getTaskRetryParametersWithValues` and `getTaskRetryStrategyFromInput`, which set limit, duration, factor and
maxDuration, and no policy and no cap.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Phase = Literal["Succeeded", "Failed", "Error"]


@dataclass(frozen=True)
class Strategy:
    """Argo's `retryStrategy`, in seconds. A `max_duration` of None means no limit; one of 0 is exceeded at once."""

    limit: int
    duration: float
    factor: float
    max_duration: float | None
    policy: str = ""
    expression: str = ""

    @property
    def actual_policy(self) -> str:
        return self.policy or ("Always" if self.expression else "OnFailure")


@dataclass(frozen=True)
class Attempt:
    """One pod of a step: the seconds that it took, its end, and the seconds until the controller saw that end."""

    seconds: float
    phase: Phase


@dataclass(frozen=True)
class Outcome:
    """How many attempts a step got, its phase, and Argo's message."""

    attempts: int
    phase: Phase
    message: str
    pauses: tuple[float, ...]


def translate(task: Mapping[str, Any]) -> Strategy:
    """KFP's translation of a compiled task; a parameter that is missing there has the default "0"."""
    policy = task["retryPolicy"]
    return Strategy(
        limit=int(policy.get("maxRetryCount", 0)),
        duration=_seconds(policy.get("backoffDuration", "0s")),
        factor=float(policy.get("backoffFactor", 0)),
        max_duration=_seconds(policy.get("backoffMaxDuration", "0s")),
    )


def end_of(pod: Mapping[str, Any], *, finalizer: bool = False) -> Phase:
    """How Argo judges a pod.

    Args:
        pod: `deleted`: it is gone; `message`: of its status; `main`: exit code of the step's container; `waiting`: a
            container never started.
        finalizer: whether the controller runs with ARGO_POD_STATUS_CAPTURE_FINALIZER, so that a deleted pod stays
            until its status was read.
    """
    if pod.get("deleted") and not finalizer:
        return "Error"  # podReconciliation: markNodeError, "pod deleted".
    if pod.get("message"):
        return "Failed"  # inferFailedReason: "Pod has a nice error message".
    if pod.get("waiting"):
        return "Error"
    return "Succeeded" if pod.get("main") == 0 else "Failed"


def run(strategy: Strategy, attempts: Iterable[Attempt]) -> Outcome:
    """Simulate a step whose attempts end in these ways; time is counted from the start of the first one."""
    now, done = 0.0, 0
    pauses: list[float] = []
    for attempt in attempts:
        now += attempt.seconds
        done += 1
        if attempt.phase == "Succeeded":
            return Outcome(done, "Succeeded", "", tuple(pauses))
        if strategy.max_duration is not None and now > strategy.max_duration:
            return Outcome(done, attempt.phase, "Max duration limit exceeded", tuple(pauses))
        pause = strategy.duration
        if strategy.factor > 0:
            # Whole multiples, because `time.Duration(factor)` drops the fraction.
            pause *= int(float(int(strategy.factor)) ** (done - 1))
        if strategy.max_duration is not None and now + pause > strategy.max_duration:
            return Outcome(done, attempt.phase, "Backoff would exceed max duration limit", tuple(pauses))
        if done <= strategy.limit:
            now += pause
            pauses.append(pause)
        retried = {"Always": ("Failed", "Error"), "OnFailure": ("Failed",), "OnError": ("Error",)}
        if attempt.phase not in retried[strategy.actual_policy]:
            return Outcome(done, attempt.phase, "Node not set to be retried", tuple(pauses[: done - 1]))
        if done > strategy.limit:
            return Outcome(done, attempt.phase, "No more retries left", tuple(pauses))
    raise AssertionError(f"the model was given {done} attempts, and Argo would start another")


def _seconds(text: str) -> float:
    return float(text.removesuffix("s"))
