"""The content of compiled pipelines, read back with KFP's own messages."""

import functools
import json
import tempfile

import pytest
import yaml
from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2

from components.resume import code_version
from pipelines import catalogue, local
from pipelines.__main__ import cli
from pipelines.cluster import Cluster, StepResources, Toleration
from pipelines.settings import SettingsError, load
from pipelines.submission import PackageError, check_package, compile_pipeline
from pipelines.versions import launched_job

TPU = Cluster(
    image="registry.example/keras-spatial-python@sha256:0",
    accelerator="google.com/tpu",
    accelerators=8,
    accelerator_type="tpu-v5-lite-podslice",
    tpu_topology="2x4",
    node_selectors={"pool": "imaging"},
    tolerations=(Toleration(key="google.com/tpu", operator="Equal", value="present", effect="NoSchedule"),),
    shared_memory="8Gi",
    volumes={"lits": "/data"},
    secrets={"store": "/secrets/store"},
    environment={"HTTPS_PROXY": "http://proxy:3128"},
    labels={"team": "imaging"},
    annotations={"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"},
    image_pull_secrets=("registry",),
    image_pull_policy="Always",
    store="s3://bucket/results",
    scratch="/data/scratch",
    cpu="24",
    memory="32Gi",
    retries=3,
)
JOB = Cluster(
    image="registry.example/keras-spatial-python@sha256:0",
    accelerator="example.com/npu",
    accelerators=8,
    accelerator_type="n1",
    accelerator_label="example.com/npu-kind",
    volumes={"lits": "/data"},
    scratch="/data/scratch",
    cpu="32",
    memory="256Gi",
    steps={"preprocess": StepResources(cpu="8", memory="64Gi")},
    nodes=4,
    timeout=3600,
    queue_timeout=600,
)
CPU_JOB = Cluster(image="i@sha256:0", volumes={"lits": "/data"}, scratch="/data/scratch", nodes=2)
CLUSTERS = {"tpu": TPU, "job": JOB, "cpu": Cluster()}
MESHES = {
    "tpu": ["mesh=rows:4, columns:2"],
    "job": ["mesh=rows:8, columns:4", "evaluation_mesh=rows:4, columns:2"],
    "cpu": [],
}
ACCELERATED = {"exec-train", "exec-evaluate", "exec-segment"}
SMALL = {f"exec-{step}" for step in ("compare", "study", "sweep", "fingerprint", "cross-validation", "train-job")}


@functools.cache
def text_of(name, cluster):
    given = ["data=/data/lits", *(["model=/data/model.keras"] if name == "batch_inference" else [])]
    settings = load(None, [*given, *MESHES[cluster]])
    with tempfile.TemporaryDirectory() as folder:
        return compile_pipeline(catalogue.build(name, settings, CLUSTERS[cluster]), f"{folder}/p.yaml").read_text()


@functools.cache
def parsed(name, cluster):
    return tuple(yaml.load_all(text_of(name, cluster), Loader=yaml.CSafeLoader))


def compiled(name, cluster="tpu"):
    """The pipeline and its platform, as they were compiled for a cluster; nothing may change them."""
    return parsed(name, cluster)


@pytest.mark.parametrize("name", catalogue.PIPELINES)
def test_platform_of_every_step(name):
    spec, platform = compiled(name)
    json_format.ParseDict(platform, pipeline_spec_pb2.PlatformSpec())
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(executors) == set(spec["deploymentSpec"]["executors"])
    for label, document in executors.items():
        # Parsed one by one: PlatformSpec alone accepts misspelt fields.
        config = json_format.ParseDict(document, kubernetes_executor_config_pb2.KubernetesExecutorConfig())
        assert [mount.mount_path for mount in config.pvc_mount] == ["/data"]
        assert [(s.secret_name, s.mount_path) for s in config.secret_as_volume] == [("store", "/secrets/store")]
        assert not config.secret_as_env
        user = config.security_context
        assert (user.run_as_user, user.run_as_group, user.run_as_non_root) == (10001, 10001, True)
        assert [s.secret_name for s in config.image_pull_secret] == ["registry"]
        assert config.image_pull_policy == "Always"
        assert dict(config.pod_metadata.labels) == {"team": "imaging"}
        assert dict(config.pod_metadata.annotations) == TPU.annotations
        # The run's identity comes from the pod, because as an input it would prevent any use of KFP's cache.
        assert [(f.name, f.field_path) for f in config.field_path_as_env] == [
            ("KERAS_SPATIAL_RUN", "metadata.labels['pipeline/runid']")
        ]
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
        assert config.active_deadline_seconds == 86_400


@pytest.mark.parametrize("name", catalogue.PIPELINES)
def test_every_step_waits_until_all_parameters_are_validated(name):
    spec, _ = compiled(name)
    [tasks] = [d["dag"]["tasks"] for n, d in spec["components"].items() if n.startswith("comp-exit-handler")]
    first = tasks.pop("validate")
    assert "enableCache" not in first["cachingOptions"]
    assert "dependentTasks" not in first

    def waits(task):
        return any(before == "validate" or waits(before) for before in tasks[task].get("dependentTasks", []))

    assert [task for task in tasks if not waits(task)] == []
    given = {i.get("componentInputParameter") for i in first["inputs"]["parameters"].values()} - {None}
    assert given == {f"pipelinechannel--{name}" for name in spec["root"]["inputDefinitions"]["parameters"]}


# By setting, the task that takes the artifact. KFP's launcher downloads it whole, so nothing takes the corpus.
IMPORTED = {
    "lits_segmentation": {"data": None, "baseline": "compare", "network": "train"},
    "batch_inference": {"data": None, "model": "segment"},
}


@pytest.mark.parametrize("name", IMPORTED)
def test_what_urls_name_is_imported_and_descends_from_there(name):
    urls = {setting: f"s3://bucket/{setting}.keras" for setting in IMPORTED[name]}
    settings = load(None, [f"{setting}={url}" for setting, url in urls.items()])
    with tempfile.TemporaryDirectory() as folder:
        path = compile_pipeline(catalogue.build(name, settings, Cluster()), f"{folder}/p.yaml")
        spec = next(iter(yaml.load_all(path.read_text(), Loader=yaml.CSafeLoader)))
    [tasks] = [d["dag"]["tasks"] for n, d in spec["components"].items() if n.startswith("comp-exit-handler")]
    importers = {t["taskInfo"]["name"]: name for name, t in tasks.items() if name.startswith("importer")}
    assert set(importers) == {f"import-{setting}" for setting in urls}
    for setting, reader in IMPORTED[name].items():
        task = tasks[importers[f"import-{setting}"]]
        # KFP's importer takes no output of a task: a parameter of the pipeline (importer_launcher.go, v2.17.0).
        assert task["inputs"]["parameters"]["uri"] == {"componentInputParameter": f"pipelinechannel--{setting}"}
        assert task["dependentTasks"] == ["validate"]
        taken = [
            name
            for name, other in tasks.items()
            for a in other.get("inputs", {}).get("artifacts", {}).values()
            if a.get("taskOutputArtifact", {}).get("producerTask") == importers[f"import-{setting}"]
        ]
        assert reader in taken if reader else not taken
    # KFP's cache knows the URL of what it imports and not its files.
    for name, version in (("ingest-folder", "version"), ("train", "network_version")):
        if name in tasks:
            producer = tasks[name]["inputs"]["parameters"][version]["taskOutputParameter"]["producerTask"]
            assert "enableCache" not in tasks[producer]["cachingOptions"]


def test_no_step_takes_an_artifact_that_it_does_not_read():
    """KFP's launcher downloads every one whole: a comparison or an export has no use for the predictions."""
    spec, _ = compiled("lits_segmentation")
    taken = {
        task: set(component.get("inputDefinitions", {}).get("artifacts", {}))
        for name, component in spec["components"].items()
        if "executorLabel" in component and (task := name.removeprefix("comp-"))
    }
    given = {"compare": {"imported_baseline"}, "train": {"imported_network"}}
    assert {task: names - given.get(task, set()) for task, names in taken.items() if names} == {
        "preprocess": {"cases"},
        "train": {"dataset"},
        "evaluate": {"cases", "dataset", "model"},
        "report": {"cases", "dataset", "model", "evaluation", "predictions"},
        "compare": {"evaluation"},
        "export": {"model", "evaluation"},
    }


def test_paths_are_not_imported_for_kfp_does_not_know_them():
    assert "importer" not in text_of("lits_segmentation", "tpu")


def test_parameters_that_were_edited_end_the_run_before_its_first_step(tmp_path):
    pipeline = catalogue.build("sweep", load(), Cluster(retries=0))
    with pytest.raises(local.StepFailed) as failed:
        local.run(functools.partial(pipeline, epochs=0, dropout=1.5), tmp_path)
    assert "epochs: Input should be greater than or equal to 1. Received: 0" in str(failed.value)
    assert "dropout: Input should be less than 1. Received: 1.5" in str(failed.value)
    assert local.read_journal(tmp_path / "steps") == []


@pytest.mark.parametrize("name", catalogue.PIPELINES)
def test_containers_of_every_step(name):
    spec, _ = compiled(name)
    for label, document in spec["deploymentSpec"]["executors"].items():
        executor = json_format.ParseDict(document, pipeline_spec_pb2.PipelineDeploymentConfig.ExecutorSpec())
        assert executor.container.image == TPU.image
        assert "pip install" not in " ".join(executor.container.command)
        assert executor.container.command[-1].endswith(f"# keras-spatial code {code_version()}\n")
        environment = {variable.name: variable.value for variable in executor.container.env}
        assert environment == {
            "HTTPS_PROXY": "http://proxy:3128",
            "KERAS_SPATIAL_CODE": code_version(),
            "KERAS_SPATIAL_SCRATCH": "/data/scratch",
            "KERAS_SPATIAL_STORE": "s3://bucket/results",
        }
        if label == "exec-finish":
            continue
        resources = executor.container.resources
        expected = ("24", "32Gi") if label in ACCELERATED else ("500m", "2Gi") if label in SMALL else ("4", "16Gi")
        expected = ("1", "8Gi") if label == "exec-validate" else expected
        assert (resources.resource_cpu_limit, resources.resource_memory_limit) == expected
        assert (resources.resource_cpu_request, resources.resource_memory_request) == expected
        count = resources.accelerator.resource_count if label in ACCELERATED else ""
        assert (resources.accelerator.resource_type, count) == (
            ("google.com/tpu", "8") if label in ACCELERATED else ("", "")
        )


def test_the_step_that_waits_for_a_job_asks_for_little_and_waits_as_long_as_the_job():
    spec, platform = compiled("lits_segmentation", "job")
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    launcher = spec["deploymentSpec"]["executors"]["exec-train-job"]["container"]["resources"]
    assert (launcher["resourceCpuLimit"], launcher["resourceMemoryLimit"]) == ("500m", "2Gi")
    assert "accelerator" not in launcher
    assert int(executors["exec-train-job"]["activeDeadlineSeconds"]) == 3600 + 600
    assert int(executors["exec-evaluate"]["activeDeadlineSeconds"]) == 3600
    prepared = spec["deploymentSpec"]["executors"]["exec-preprocess"]["container"]["resources"]
    assert (prepared["resourceCpuLimit"], prepared["resourceMemoryLimit"]) == ("8", "64Gi")


@pytest.mark.parametrize(("cluster", "job"), [("job", JOB.pods_job()), ("tpu", None)])
def test_submit_finds_the_job_that_a_package_launches(cluster, job):
    spec, _ = compiled("lits_segmentation", cluster)
    assert launched_job(json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())) == job


def test_kfps_cache_knows_when_the_files_of_the_data_change():
    spec, _ = compiled("lits_segmentation")
    tasks = next(d["dag"]["tasks"] for n, d in spec["components"].items() if n.startswith("comp-exit-handler"))
    assert "enableCache" not in tasks["fingerprint"]["cachingOptions"]
    ingest = tasks["ingest-folder"]
    assert ingest["cachingOptions"]["enableCache"] is True
    assert ingest["inputs"]["parameters"]["version"]["taskOutputParameter"]["producerTask"] == "fingerprint"
    # They read the baseline, of which KFP knows only the name.
    for name in ("compare", "report"):
        assert "enableCache" not in tasks[name]["cachingOptions"]


@pytest.mark.parametrize("cluster", [None, Cluster()], ids=["here", "cluster"])
def test_where_all_steps_mount_the_same_volumes_a_corpus_is_not_copied(cluster):
    """Here the files are a user's own, who may edit them while the run lasts."""
    spec = json_format.MessageToDict(catalogue.build("sweep", load(None, ["data=/data"]), cluster).pipeline_spec)
    tasks = {n: task for d in spec["components"].values() for n, task in d.get("dag", {}).get("tasks", {}).items()}
    given = tasks["ingest-folder"]["inputs"]["parameters"]["by_reference"]
    assert given == {"runtimeValue": {"constant": cluster is not None}}


def test_kfps_cache_knows_when_the_names_of_channels_and_labels_change(tmp_path):
    settings = load(None, ["data=/data/plain", "task=/data/names.json"])
    path = compile_pipeline(catalogue.build("lits_segmentation", settings, Cluster()), tmp_path / "p.yaml")
    spec = next(yaml.load_all(path.read_text(), Loader=yaml.CSafeLoader))
    tasks = next(d["dag"]["tasks"] for n, d in spec["components"].items() if n.startswith("comp-exit-handler"))
    inputs = tasks["ingest-folder"]["inputs"]["parameters"]
    producers = {name: inputs[name]["taskOutputParameter"]["producerTask"] for name in ("version", "task_version")}
    read = {name: tasks[task]["inputs"]["parameters"]["data"] for name, task in producers.items()}
    assert read == {
        "version": {"componentInputParameter": "pipelinechannel--data"},
        "task_version": {"componentInputParameter": "pipelinechannel--task"},
    }


@pytest.mark.parametrize(
    ("pipeline", "cluster", "assignments", "expected"),
    [
        ("lits_segmentation", JOB, [], r"mesh: 4 pod\(s\).*8 example.com/npu in each pod.*32 devices.*4 devices"),
        (
            "lits_segmentation",
            JOB,
            ["mesh=rows:8, columns:4", "evaluation_mesh=rows:4, columns:4"],
            "evaluation_mesh: .*at most 8 devices, or of 32 devices over all of them.*16 devices",
        ),
        (
            "lits_segmentation",
            CPU_JOB,
            ["mesh=rows:3", "layout=x:rows"],
            "mesh: expected a multiple of the 2 pods.*3 devices",
        ),
        ("resolution_study", TPU, [], "mesh: 1 pod.*expected a mesh of 8 devices"),
        ("sweep", TPU, ["mesh=rows:16", "layout=x:rows"], "expected a mesh of 8 devices. Received: 'rows:16'"),
        ("batch_inference", JOB, ["mesh=rows:8, columns:2"], "^mesh: .*segmentation run in one pod.*16 devices"),
        ("batch_inference", TPU, ["mesh=rows:8, columns:2"], "^mesh: .*at most 8 devices. Received"),
        ("lits_segmentation", JOB, ["processes=2"], "processes: the number for one machine, but each of the 4 pods"),
        ("resolution_study", None, ["resolutions=32,36", "levels=4"], "^resolutions: .*multiple of 8. Received: 36"),
        ("lits_segmentation", TPU, [*MESHES["tpu"], "recompute=auto"], "recompute: auto is for CPUs and GPUs.*tpu"),
        ("lits_segmentation", TPU, [*MESHES["tpu"], "gpus=0"], r"gpus: no GPU is used. Received: \[0\] with .* tpu"),
        ("sweep", TPU, [*MESHES["tpu"], "processes=2"], "processes: one process starts all cores of a TPU slice"),
        ("lits_segmentation", TPU, ["accelerator=gpu"], "accelerator: the cluster file gives the steps google.com/tpu"),
        ("lits_segmentation", Cluster(), ["accelerator=gpu"], "gives the steps no accelerators"),
    ],
)
def test_a_mesh_or_a_setting_that_does_not_fit_to_the_pods_is_refused_when_compiled(
    pipeline, cluster, assignments, expected
):
    given = ["data=/data/lits", *(["model=/data/model.keras"] if pipeline == "batch_inference" else [])]
    with pytest.raises(SettingsError, match=expected):
        catalogue.build(pipeline, load(None, [*given, *assignments]), cluster)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("trian", "no step 'trian'. Did you mean 'train'"), ("train", "'train' is a step with accelerators: its CPU and")],
)
def test_resources_of_a_step_that_would_be_ignored_are_refused(name, expected):
    with pytest.raises(ValueError, match=expected):
        Cluster(steps={name: StepResources(cpu="8")})


def test_the_resources_of_ingest_are_those_of_ingest_of_a_folder():
    cluster = Cluster(steps={"ingest": StepResources(cpu="8", memory="64Gi")})
    assert cluster.resources("ingest_folder", accelerated=False).memory == "64Gi"


def test_the_resolutions_of_a_study_bind_no_other_pipeline():
    assert catalogue.build("lits_segmentation", load(None, ["levels=7", "resolution=128"])).pipeline_spec


IN_STORE = CPU_JOB.model_copy(update={"volumes": {}, "scratch": "s3://b/scratch"})


@pytest.mark.parametrize("cluster", [JOB, CPU_JOB, IN_STORE], ids=["accelerators", "cpu", "no volume"])
@pytest.mark.parametrize(
    ("name", "steps"),
    [("lits_segmentation", ("train-job", "evaluate-job")), ("batch_inference", ("segment-job",))],
)
def test_a_mesh_over_all_pods_is_that_of_every_step_that_uses_one(name, steps, cluster):
    settings = load(None, ["data=/data/lits", *(["model=/data/m.keras"] if name == "batch_inference" else [])])
    settings = settings.model_copy(update={"mesh": "rows:8, columns:4"})
    spec = json_format.MessageToDict(catalogue.build(name, settings, cluster).pipeline_spec)
    executors = {label.removeprefix("exec-") for label in spec["deploymentSpec"]["executors"]}
    assert set(steps) <= executors and not {"train", "evaluate", "segment"} & executors
    message = json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
    assert launched_job(message) == cluster.pods_job()
    # The step that waits for a job needs no accelerator, and waits in the job's queue.
    for step in steps:
        container = spec["deploymentSpec"]["executors"][f"exec-{step}"]["container"]
        assert container["resources"]["resourceCpuLimit"] == "500m" and "accelerator" not in container["resources"]


def test_a_mesh_over_all_pods_may_train_though_one_pod_evaluates():
    job = JOB.model_copy(update={"accelerators": 2, "nodes": 2})
    settings = load(None, ["evaluation_mesh=rows:2", "evaluation_layout=x:rows"])
    assert catalogue.build("lits_segmentation", settings, job).pipeline_spec
    # A sweep evaluates nothing.
    assert catalogue.build("sweep", load(), job).pipeline_spec


@pytest.mark.parametrize(("cluster", "kind"), [("tpu", "tpu"), ("job", "auto"), ("cpu", "auto")])
def test_the_steps_demand_the_accelerators_of_their_cluster(cluster, kind):
    spec, _ = compiled("lits_segmentation", cluster)
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    assert parameters["accelerator"]["defaultValue"] == kind


@pytest.mark.parametrize(("kind", "devices"), [("tpu-v5-lite-podslice", (4,)), ("tpu-v4-podslice", (4, 8))])
def test_a_chip_has_the_cores_of_its_generation(kind, devices):
    slice_ = Cluster(accelerator="google.com/tpu", accelerators=4, accelerator_type=kind, tpu_topology="2x2")
    assert slice_.hardware().devices(1) == devices


def test_every_fold_is_a_turn_of_the_loop():
    spec, _ = compiled("cross_validation")
    tasks = [task for d in spec["components"].values() for task in d.get("dag", {}).get("tasks", {}).values()]
    [loop] = [task["parameterIterator"] for task in tasks if "parameterIterator" in task]
    assert json.loads(loop["items"]["raw"]) == [f"fold-{fold}-of-5" for fold in range(5)]


def test_volumes_are_shared_among_pods_whose_results_are_gathered():
    settings = load(None, ["data=/data/scans", "model=/data/model.keras", "shares=3", *MESHES["tpu"]])
    spec = catalogue.build("batch_inference", settings, CLUSTERS["tpu"]).pipeline_spec
    spec = json_format.MessageToDict(spec)
    tasks = {n: task for d in spec["components"].values() for n, task in d.get("dag", {}).get("tasks", {}).items()}
    [loop] = [task for task in tasks.values() if "parameterIterator" in task]
    assert json.loads(loop["parameterIterator"]["items"]["raw"]) == ["0-of-3", "1-of-3", "2-of-3"]
    assert "iteratorPolicy" not in loop, "all pods at once"
    assert loop["dependentTasks"] == ["validate"]
    assert "loop-item" in tasks["segment"]["inputs"]["parameters"]["share"]["componentInputParameter"]
    [parts] = tasks["gather"]["inputs"]["artifacts"].values()
    assert "taskOutputArtifact" in parts


def test_an_accelerator_of_another_vendor_is_selected_by_its_own_label():
    _, platform = compiled("lits_segmentation", "job")
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert executors["exec-evaluate"]["nodeSelector"]["labels"] == {"example.com/npu-kind": "n1"}
    job = JOB.pods_job()
    assert (job.accelerator, job.node_selectors) == ("example.com/npu", {"example.com/npu-kind": "n1"})


def test_an_image_may_be_given_at_compile(tmp_path, capsys):
    output = tmp_path / "p.yaml"
    arguments = ["compile", "resolution_study", "--output", str(output), "--image"]
    assert cli([*arguments, "registry.example/other@sha256:1"]) == 0
    assert "Warning" not in capsys.readouterr().err
    spec = next(yaml.safe_load_all(output.read_text()))
    images = {document["container"]["image"] for document in spec["deploymentSpec"]["executors"].values()}
    assert images == {"registry.example/other@sha256:1"}
    assert cli([*arguments, "registry.example/other:0.1.0"]) == 0
    assert "is a tag, which may be moved" in capsys.readouterr().err


def test_a_cpu_cluster_asks_for_no_accelerator():
    spec, _ = compiled("lits_segmentation", "cpu")
    for document in spec["deploymentSpec"]["executors"].values():
        assert "accelerator" not in document["container"].get("resources", {})


@pytest.mark.parametrize("name", catalogue.PIPELINES)
def test_an_exit_handler_ends_every_pipeline(name):
    spec, _ = compiled(name)
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
    path = tmp_path / "p.yaml"
    path.write_text(change(text_of("batch_inference", "cpu")))
    with pytest.raises(PackageError, match=expected):
        check_package(path)


def test_compile_wants_a_yaml_name(tmp_path):
    with pytest.raises(PackageError, match=r"ends in \.yaml"):
        compile_pipeline(catalogue.build("resolution_study", load(), Cluster()), tmp_path / "p.json")
    assert not list(tmp_path.iterdir())


def test_unknown_pipeline_is_named():
    with pytest.raises(catalogue.UnknownPipeline, match="Did you mean 'lits_segmentation'"):
        catalogue.build("lits_segmentaton", load())
