"""A failed step is tried again by Argo's own rule: a model of Argo's controller runs what is compiled."""

import argo_retry
import pytest
import yaml
from argo_retry import Attempt, Strategy, end_of, run

from pipelines import catalogue
from pipelines.cluster import Cluster
from pipelines.resources import retry_options
from pipelines.settings import load
from pipelines.submission import compile_pipeline

HOUR, DAY = 3600, 86_400
# What this project compiled before it read Argo's source.
BEFORE = Strategy(limit=2, duration=30, factor=2, max_duration=600)


@pytest.fixture(scope="module")
def strategies(tmp_path_factory):
    """Argo's strategy of every step of the segmentation pipeline, by name of task."""
    pipeline = catalogue.build("lits_segmentation", load(None, ["data=/data"]), Cluster())
    path = compile_pipeline(pipeline, tmp_path_factory.mktemp("retries") / "p.yaml")
    spec = next(yaml.safe_load_all(path.read_text()))
    tasks = {}
    for component in spec["components"].values():
        tasks |= component.get("dag", {}).get("tasks", {})
    return {name: argo_retry.translate(task) for name, task in tasks.items() if "retryPolicy" in task}


def test_a_maximum_of_ten_minutes_never_let_a_long_step_be_tried_again():
    outcome = run(BEFORE, [Attempt(700, "Failed")])
    assert (outcome.attempts, outcome.message) == (1, "Max duration limit exceeded")


def test_kfps_default_of_an_hour_is_no_better():
    outcome = run(Strategy(limit=2, duration=0, factor=2, max_duration=3600), [Attempt(2 * HOUR, "Failed")])
    assert outcome.attempts == 1


@pytest.mark.parametrize("seconds", [1, 700, 3 * HOUR, DAY - 1])
def test_every_step_is_tried_as_often_as_the_cluster_file_says_however_long_it_runs(strategies, seconds):
    assert {"train", "evaluate", "preprocess"} <= set(strategies)
    for name, strategy in strategies.items():
        outcome = run(strategy, [Attempt(seconds, "Failed")] * 2 + [Attempt(seconds, "Succeeded")])
        assert (name, outcome.attempts, outcome.phase) == (name, 3, "Succeeded")


def test_waiting_for_a_node_does_not_use_up_the_retries(strategies):
    waiting = 6 * DAY
    outcome = run(strategies["train"], [Attempt(waiting + DAY - 1, "Failed")] * 2 + [Attempt(DAY, "Succeeded")])
    assert outcome.phase == "Succeeded"


def test_parameters_that_were_refused_end_the_run_at_once(strategies):
    """A task without a retry policy gets no strategy (container.go), and Argo starts no second pod."""
    assert "validate" not in strategies


def test_a_step_that_keeps_failing_ends(strategies):
    outcome = run(strategies["train"], [Attempt(60, "Failed")] * 9)
    assert (outcome.attempts, outcome.message) == (3, "No more retries left")


@pytest.mark.parametrize("retries", range(21))
def test_no_pause_is_longer_than_eight_minutes(retries):
    """A job waits half an hour for the heartbeat of a step that is tried again; KFP has no cap of a pause."""
    options = retry_options(Cluster(retries=retries), DAY)
    seconds = {name: float(str(value).removesuffix("s")) for name, value in options.items()}
    strategy = Strategy(
        retries, seconds["backoff_duration"], seconds["backoff_factor"], seconds["backoff_max_duration"]
    )
    outcome = run(strategy, [Attempt(DAY, "Failed")] * (retries + 1))
    assert outcome.attempts == retries + 1
    assert max(outcome.pauses, default=0) <= 480


@pytest.mark.parametrize(
    ("pod", "finalizer", "phase"),
    [
        ({"main": 1}, False, "Failed"),
        ({"main": 137}, False, "Failed"),
        ({"message": "The node was low on resource: memory."}, False, "Failed"),
        ({"message": "Pod was terminated in response to imminent node shutdown."}, False, "Failed"),
        ({"deleted": True, "main": 143}, False, "Error"),
        ({"deleted": True, "main": 143}, True, "Failed"),
        ({"waiting": True}, False, "Error"),
        ({"main": 0}, False, "Succeeded"),
    ],
)
def test_what_argo_makes_of_a_pod(pod, finalizer, phase):
    assert end_of(pod, finalizer=finalizer) == phase


def test_a_deleted_pod_is_tried_again_only_where_argo_keeps_its_status(strategies):
    """KFP gives no retry policy (https://github.com/kubeflow/pipelines/pull/13386), and Argo's default is OnFailure."""
    preempted = {"deleted": True, "main": 143}
    lost = run(strategies["train"], [Attempt(HOUR, end_of(preempted))])
    assert (lost.attempts, lost.message) == (1, "Node not set to be retried")
    kept = run(strategies["train"], [Attempt(HOUR, end_of(preempted, finalizer=True)), Attempt(HOUR, "Succeeded")])
    assert kept.phase == "Succeeded"
