"""When a failed pod restarts a whole job, and when it ends the job: the rules of Kubernetes and JobSet as programs.

Written from kubernetes/kubernetes v1.33, `pkg/controller/job/pod_failure_policy.go` (`matchPodFailurePolicy`) and
`job_controller.go` (`BackoffLimitExceeded`); and kubernetes-sigs/jobset, `pkg/controllers/failure_policy.go`
(`findFirstFailedPolicyRuleAndJob`, `restartJobSetActionApplier`, `restartJobSetAndIgnoreMaxRestartsActionApplier`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Pod:
    """A pod that has failed: the types of its conditions that hold, and the exit code of its container."""

    conditions: tuple[str, ...] = ()
    code: int = 1


PREEMPTED = Pod(("DisruptionTarget",), 143)
"""A pod as the scheduler, the eviction API, the kubelet on a node that shuts down, and the taint manager leave it."""
CRASHED = Pod()


@dataclass(frozen=True)
class Outcome:
    """How often the JobSet has restarted, and why it has failed; "" for one that runs."""

    restarts: int
    failed: str


def reason_of(job: Mapping[str, Any], pod: Pod) -> str:
    """The reason with which a Job fails if its first pod fails in this way; "" if the Job replaces the pod."""
    for rule in job.get("podFailurePolicy", {}).get("rules", []):
        patterns = rule.get("onPodConditions", [])
        if any(p["type"] in pod.conditions and p.get("status", "True") == "True" for p in patterns):
            if rule["action"] == "FailJob":
                return "PodFailurePolicy"
            if rule["action"] == "Ignore":
                return ""
    return "BackoffLimitExceeded" if job.get("backoffLimit", 6) < 1 else ""


def run(jobset: Mapping[str, Any], failures: Iterable[Pod]) -> Outcome:
    """Simulate a JobSet with one replicated job, in each of whose runs a pod fails in the given way."""
    [replicated] = jobset["replicatedJobs"]
    policy = jobset.get("failurePolicy")
    restarts = counted = 0
    for pod in failures:
        reason = reason_of(replicated["template"]["spec"], pod)
        if not reason:
            continue
        if policy is None:
            return Outcome(restarts, "FailedJobs")
        action = next((rule["action"] for rule in policy.get("rules", []) if _applies(rule, reason, replicated)), "")
        if action == "FailJobSet":
            return Outcome(restarts, "FailJobSetFailurePolicyAction")
        if action != "RestartJobSetAndIgnoreMaxRestarts":
            if counted >= policy.get("maxRestarts", 0):
                return Outcome(restarts, "ReachedMaxRestarts")
            counted += 1
        restarts += 1
    return Outcome(restarts, "")


def _applies(rule: Mapping[str, Any], reason: str, replicated: Mapping[str, Any]) -> bool:
    reasons, targets = rule.get("onJobFailureReasons", []), rule.get("targetReplicatedJobs", [])
    return (not reasons or reason in reasons) and (not targets or replicated["name"] in targets)
