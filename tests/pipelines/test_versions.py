"""Software that is too old on a cluster is named before anything is sent."""

from dataclasses import replace

import kubernetes_server as fake
import pytest

from components.jobs.settings import JobSettings
from pipelines import versions
from pipelines.versions import VersionError, check_backend, check_cluster

JOB = JobSettings(kind="TrainJob", nodes=2, image="i", cpu="2", memory="4Gi")


@pytest.mark.parametrize("tag", ["2.16.0", "2.17.0", "v2.16.1", "2.17.0-rc.1", "3.0.0"])
def test_a_backend_that_is_new_enough_is_named(tag):
    assert check_backend({"tag_name": tag, "multi_user": True}) == f"KFP's backend: {tag}"


@pytest.mark.parametrize("tag", ["2.15.2", "2.5.0", "1.8.22", "v0.1"])
def test_a_backend_that_is_too_old_is_refused(tag):
    with pytest.raises(VersionError, match=f"2.16.0 or later.*Received: {tag}.*--any-version"):
        check_backend({"tag_name": tag})


@pytest.mark.parametrize("health", [None, {}, {"tag_name": "unknown"}, {"tag_name": "nightly"}])
def test_a_backend_that_does_not_tell_is_noted(health):
    assert "does not report its version" in check_backend(health)


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A server of Kubernetes's API, and a function that reads it through the context of a kubeconfig."""
    with fake.running() as server:
        monkeypatch.setenv("KUBECONFIG", str(fake.kubeconfig(server, tmp_path / "kubeconfig")))
        yield server, versions.kubernetes("here")


@pytest.mark.parametrize(
    ("job", "installed", "group"),
    [
        (JOB, (), "trainer.kubeflow.org"),
        (replace(JOB, gang="coscheduling"), ("scheduling.x-k8s.io",), "scheduling.x-k8s.io"),
        (replace(JOB, queue="gpus", priority="high"), ("kueue.x-k8s.io",), "kueue.x-k8s.io"),
        (replace(JOB, kind="TFJob", restarts=0), (), "kubeflow.org"),
    ],
)
def test_what_a_job_needs_is_looked_for(cluster, job, installed, group):
    server, read = cluster
    server.installed |= set(installed)
    notes = check_cluster(read, job)
    assert notes[0] == "Kubernetes: 1.33"
    assert f"{group}: found" in notes
    assert notes[-1] == f"{job.kind}: the cluster knows every field"
    server.installed -= set(installed)
    if not installed:
        server.schemas = []
    with pytest.raises(VersionError, match=f"{group}: the cluster has no such API. Expected"):
        check_cluster(read, job)


def test_a_field_that_the_cluster_would_drop_is_named(cluster):
    server, read = cluster
    server.installed |= {"scheduling.volcano.sh"}
    with pytest.raises(
        VersionError, match=r"TrainingRuntime: expected version 2.0.0 \(2.1.0 for gang: volcano\).*volcano"
    ):
        check_cluster(read, replace(JOB, gang="volcano"))
    server.schemas = [path for path in fake.SCHEMAS if path.stem.endswith("v2.3.0")]
    assert check_cluster(read, replace(JOB, gang="volcano"))


def test_an_old_kubernetes_is_refused(cluster):
    server, read = cluster
    server.version = {"major": "1", "minor": "25"}
    with pytest.raises(VersionError, match=r"Kubernetes: expected version 1\.26 or later\. Received: 1\.25"):
        check_cluster(read, None)


def test_a_context_that_is_not_there_is_named(cluster):
    with pytest.raises(VersionError, match=r"--kube-context: cannot be used.*Received: 'elsewhere'"):
        versions.kubernetes("elsewhere")
