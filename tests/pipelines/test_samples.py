"""The sample files for a cluster give the rights that the pipelines really need."""

from pathlib import Path

import pytest
import yaml

from pipelines.cluster import load_cluster

SAMPLES = Path(__file__).parents[2] / "pipelines" / "clusters"
# Every call of `components.jobs.cluster_api.ClusterApi`: group, resource, verb.
CALLS = [
    *[
        ("trainer.kubeflow.org", kind, verb)
        for kind in ("trainjobs", "trainingruntimes")
        for verb in ("create", "get", "delete")
    ],
    *[("kubeflow.org", "tfjobs", verb) for verb in ("create", "get", "delete")],
    *[("networking.k8s.io", "networkpolicies", verb) for verb in ("create", "get", "delete")],
    ("", "pods", "get"),
    ("", "pods", "list"),
    ("", "pods/log", "get"),
    ("", "events", "list"),
]


@pytest.fixture(scope="module")
def objects():
    return {
        (body["kind"], body["metadata"]["name"]): body
        for body in yaml.safe_load_all((SAMPLES / "rbac.yaml").read_text())
    }


@pytest.mark.parametrize("call", CALLS, ids=["-".join(call) for call in CALLS])
def test_the_steps_may_do_what_they_do(objects, call):
    group, resource, verb = call
    rules = objects["Role", "keras-spatial-steps"]["rules"]
    assert any(group in rule["apiGroups"] and resource in rule["resources"] and verb in rule["verbs"] for rule in rules)


def test_the_steps_may_do_nothing_to_secrets_and_nothing_to_everything(objects):
    for rule in objects["Role", "keras-spatial-steps"]["rules"]:
        assert not {"*", "secrets"} & {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}


def test_the_pods_of_a_job_have_no_rights(objects):
    assert objects["ServiceAccount", "training"]["automountServiceAccountToken"] is False
    bound = [s["name"] for (kind, _), body in objects.items() if kind == "RoleBinding" for s in body["subjects"]]
    assert bound == ["steps"]


def test_nothing_is_in_the_control_planes_namespace(objects):
    places = {body["metadata"].get("namespace") for (kind, _), body in objects.items() if kind != "Namespace"}
    assert places == {"imaging"}
    assert ("Namespace", "imaging") in objects


@pytest.mark.parametrize(
    "path", sorted(p for p in SAMPLES.glob("*.yaml") if p.name != "rbac.yaml"), ids=lambda p: p.stem
)
def test_every_sample_is_a_valid_cluster_file(path):
    cluster = load_cluster(path)
    assert cluster.accelerators
    # The image with CUDA has a tag of its own.
    assert cluster.image.endswith("-cuda") == (cluster.accelerator == "nvidia.com/gpu")
