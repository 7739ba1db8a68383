"""What a compiled pipeline says, read back with KFP's own messages."""

import pytest
import yaml
from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2

from pipelines import catalogue
from pipelines.cluster import Cluster, Toleration
from pipelines.settings import load
from pipelines.submission import PackageError, check_package, compile_pipeline

TPU = Cluster(
    image="registry.example/keras-spatial-python@sha256:0",
    accelerator="google.com/tpu",
    accelerators=4,
    accelerator_type="tpu-v5-lite-podslice",
    tpu_topology="2x4",
    node_selectors={"pool": "imaging"},
    tolerations=(Toleration(key="google.com/tpu", operator="Equal", value="present", effect="NoSchedule"),),
    shared_memory="8Gi",
    volumes={"lits": "/data"},
    secrets={"store": {"key": "STORE_KEY"}},
    memory="32Gi",
    retries=3,
)
ACCELERATED = {"exec-train", "exec-evaluate", "exec-segment"}


def compiled(name, tmp_path, cluster):
    settings = load(None, ["data=/data/lits", "model=/data/model.keras"])
    path = compile_pipeline(catalogue.build(name, settings, cluster), tmp_path / f"{name}.yaml")
    return path, list(yaml.safe_load_all(path.read_text()))


@pytest.mark.parametrize("name", catalogue.PIPELINES)
def test_platform_of_every_step(name, tmp_path):
    _, (spec, platform) = compiled(name, tmp_path, TPU)
    json_format.ParseDict(platform, pipeline_spec_pb2.PlatformSpec())
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(executors) == set(spec["deploymentSpec"]["executors"])
    for label, document in executors.items():
        # Parsed one by one: PlatformSpec alone accepts misspelt fields.
        config = json_format.ParseDict(document, kubernetes_executor_config_pb2.KubernetesExecutorConfig())
        assert [mount.mount_path for mount in config.pvc_mount] == ["/data"]
        if label == "exec-finish":
            continue
        selectors = dict(config.node_selector.labels)
        expected = {"pool": "imaging"}
        if label in ACCELERATED:
            expected |= {
                "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
                "cloud.google.com/gke-tpu-topology": "2x4",
            }
        assert selectors == expected
        assert [t.key for t in config.tolerations] == (["google.com/tpu"] if label in ACCELERATED else [])
        shm = [(m.mount_path, m.medium, m.size_limit) for m in config.empty_dir_mounts]
        assert shm == ([("/dev/shm", "Memory", "8Gi")] if label in ACCELERATED else [])
        secret = config.secret_as_env[0]
        assert [(e.secret_key, e.env_var) for e in secret.key_to_env] == [("key", "STORE_KEY")]
        assert config.active_deadline_seconds == 86_400


@pytest.mark.parametrize("name", catalogue.PIPELINES)
def test_containers_of_every_step(name, tmp_path):
    _, (spec, _) = compiled(name, tmp_path, TPU)
    for label, document in spec["deploymentSpec"]["executors"].items():
        executor = json_format.ParseDict(document, pipeline_spec_pb2.PipelineDeploymentConfig.ExecutorSpec())
        assert executor.container.image == TPU.image
        assert "pip install" not in " ".join(executor.container.command)
        if label == "exec-finish":
            continue
        resources = executor.container.resources
        assert resources.resource_memory_limit == "32Gi"
        count = resources.accelerator.resource_count if label in ACCELERATED else ""
        assert (resources.accelerator.resource_type, count) == (
            ("google.com/tpu", "4") if label in ACCELERATED else ("", "")
        )


def test_a_cpu_cluster_asks_for_no_accelerator(tmp_path):
    _, (spec, _) = compiled("lits_segmentation", tmp_path, Cluster())
    for document in spec["deploymentSpec"]["executors"].values():
        assert "accelerator" not in document["container"].get("resources", {})


@pytest.mark.parametrize("name", catalogue.PIPELINES)
def test_an_exit_handler_ends_every_pipeline(name, tmp_path):
    _, (spec, _) = compiled(name, tmp_path, TPU)
    tasks = spec["root"]["dag"]["tasks"]
    assert tasks["finish"]["triggerPolicy"]["strategy"] == "ALL_UPSTREAM_TASKS_COMPLETED"
    inner = next(d["dag"]["tasks"] for n, d in spec["components"].items() if n.startswith("comp-exit-handler"))
    assert all(t["retryPolicy"]["maxRetryCount"] == 3 for t in inner.values() if "retryPolicy" in t)
    assert any("retryPolicy" in t for t in inner.values())


def test_settings_are_the_defaults_of_parameters_which_explain_themselves(tmp_path):
    settings = load(None, ["resolution=128", "epochs=7", "mesh=rows:4, columns:2"])
    path = compile_pipeline(catalogue.build("lits_segmentation", settings, Cluster()), tmp_path / "p.yaml")
    spec = check_package(path)
    parameters = spec.root.input_definitions.parameters
    assert parameters["resolution"].default_value.number_value == 128
    assert parameters["epochs"].default_value.number_value == 7
    assert parameters["mesh"].default_value.string_value == "rows:4, columns:2"
    train = spec.components["comp-train"].input_definitions.parameters
    assert all(parameter.description for parameter in train.values())


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda text: text.replace("sdkVersion: kfp-2", "sdkVersion: kfp-1"),
            "was compiled by kfp-1.*Compile it again",
        ),
        (lambda text: text.replace("pipelineInfo", "pipelineInof"), "expected a pipeline compiled by"),
        (lambda text: text.replace("deploymentSpec", "deploymentspce", 1), "is not a KFP pipeline"),
        (lambda text: "a: [", "cannot be read as YAML"),
    ],
    ids=["version", "no-pipeline", "unknown-field", "no-yaml"],
)
def test_a_bad_package_is_refused(change, expected, tmp_path):
    path, _ = compiled("batch_inference", tmp_path, Cluster())
    path.write_text(change(path.read_text()))
    with pytest.raises(PackageError, match=expected):
        check_package(path)


def test_compile_wants_a_yaml_name(tmp_path):
    with pytest.raises(PackageError, match=r"ends in \.yaml"):
        compile_pipeline(catalogue.build("resolution_study", load(), Cluster()), tmp_path / "p.json")
    assert not list(tmp_path.iterdir())


def test_unknown_pipeline_is_named():
    with pytest.raises(catalogue.UnknownPipeline, match="Did you mean 'lits_segmentation'"):
        catalogue.build("lits_segmentaton", load())
