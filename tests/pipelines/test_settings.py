"""Settings come from YAML and `--set`, and faults in them are named."""

from pathlib import Path

import pytest
import yaml

from pipelines import catalogue
from pipelines.cluster import Cluster, load_cluster
from pipelines.settings import Settings, SettingsError, dump, load


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("resolutoin=64", "Did you mean 'resolution'"),
        ("zzzz=1", "Known: .*data"),
        ("resolution=sixty", "resolution: .*integer.*Received: 'sixty'"),
        ("window=240,-160", "window: expected two numbers, the lower one first"),
        ("resolution=20", "levels needs a multiple of 8. Received: 20"),
        ("mesh=rows2", "mesh: A mesh shape is written as .*Received: 'rows2'"),
        ("mesh=rows:0, columns:2", "mesh: The size of mesh axis 'rows' must be a positive integer"),
        ("layout=x:lines", r"layout: .*'x' to 'lines', but the mesh has the axes \['rows', 'columns'\]"),
        ("layout=x:rows, y:rows", "layout: .*each mesh axis only once"),
        ("layout=q:rows", "layout: .* the axes batch, x, y, z. Received: 'q'"),
        ("layout=batch:rows", "batch_size: expected a multiple of the 2 parts"),
        ("difficulty=impossible", "difficulty: .*Received: 'impossible'"),
        ("epochs=0", "epochs: .*greater than or equal to 1. Received: 0"),
        ("learning_rate=-1", "learning_rate: .*Received: -1"),
        ("resolution", "--set: expected name=value"),
        ("split=fold-5-of-3", "split: expected published, or fold-K-of-N .*Received: 'fold-5-of-3'"),
        ("split=fold-1-of-2", "split: .*N from 3"),
        ("split=fold-3-of-3", "split: .*K from 0 to below N"),
        ("split=fold-1-of-" + "9" * 50, "split: .*match pattern"),
        ("title={{$}}", "title: .*Kubeflow Pipelines would replace"),
        ("title={{$.inputs.parameters['data']}}", "title: .*Kubeflow Pipelines would replace"),
        ("data={{$}}", "data: .*Kubeflow Pipelines would replace"),
        ("beam_options=['{{$}}']", "beam_options: .*Kubeflow Pipelines would replace"),
        ("title=a\nb", "title: .*on one line"),
        ("title=\x1b[31m", "title: .*printable"),
        ("title=\udcff", "title: "),
        ("title=" + "x" * 201, "title: .*at most 200"),
        ("task=/data/names.json", "task: phantoms have their own channels and labels.*'/data/names.json'"),
    ],
)
def test_bad_settings_are_named(assignment, expected):
    with pytest.raises(SettingsError, match=expected):
        catalogue.build("lits_segmentation", load(None, [assignment]))


@pytest.mark.parametrize(
    ("name", "assignments"),
    [
        ("resolution_study", ["levels=8", "resolutions=128,256"]),
        ("batch_inference", ["data=d", "model=m", "mesh=rows:2, cores:2", "layout=x:rows, batch:cores"]),
    ],
)
def test_settings_that_a_pipeline_does_not_read_do_not_bind_it(name, assignments):
    """Neither can be set there: the resolution of a study, and the batch of a segmentation."""
    assert catalogue.build(name, load(None, assignments)).pipeline_spec


def test_later_sources_win(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("epochs: 5\nfilters: 8\n")
    settings = load(file, ["filters=4"], epochs=1, levels=3)
    assert (settings.epochs, settings.filters, settings.levels) == (5, 4, 3)


def test_lists_and_texts_are_read_as_what_they_are():
    settings = load(None, ["resolutions=32,128", "mesh=rows:4", "layout=x:rows", "title=007", "thresholds=true"])
    assert settings.resolutions == (32, 128)
    assert settings.mesh == "rows:4"
    assert settings.title == "007"
    assert settings.thresholds is True


@pytest.mark.parametrize("title", ["$x^{$", "{{x}}", "100 $", "</title><script>", "_x", "ä 中 😀", "a & b", "fold-5"])
def test_any_other_title_is_taken_as_it_is(title):
    assert load(None, [f"title={title}"]).title == title


@pytest.mark.parametrize("split", ["published", "fold-0-of-3", "fold-4-of-5"])
def test_splits_that_exist_are_taken(split):
    assert load(None, [f"split={split}"]).split == split


@pytest.mark.parametrize(
    ("pipeline", "assignment"),
    [
        ("lits_segmentation", "model=mine.keras"),
        ("lits_segmentation", "resolutions=8,16"),
        ("lits_segmentation", "folds=3"),
        ("resolution_study", "resolution=128"),
        ("resolution_study", "baseline=metrics.json"),
        ("cross_validation", "split=fold-0-of-3"),
        ("sweep", "learning_rate=0.1"),
        ("sweep", "thresholds=true"),
        ("batch_inference", "epochs=7"),
    ],
)
def test_a_setting_that_a_pipeline_does_not_read_is_refused_by_name(pipeline, assignment):
    given = ["data=/data", "model=m.keras"] if pipeline == "batch_inference" else []
    name = assignment.partition("=")[0]
    with pytest.raises(SettingsError, match=f"^{name}: the pipeline .* does not read this setting"):
        catalogue.build(pipeline, load(None, [*given, assignment]))


@pytest.mark.parametrize("pipeline", catalogue.PIPELINES)
def test_a_file_of_all_settings_serves_every_pipeline(pipeline, tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text(dump(load()))
    given = ["data=/data", "model=m.keras"] if pipeline == "batch_inference" else []
    assert catalogue.build(pipeline, load(file, given)).pipeline_spec


def test_settings_survive_their_yaml_form(tmp_path):
    settings = load(None, ["resolution=128", "beam_options=[--direct_num_workers=2]", "title=A: b"])
    file = tmp_path / "settings.yaml"
    file.write_text(dump(settings))
    assert load(file) == settings
    assert set(yaml.safe_load(file.read_text())) == set(Settings.model_fields)


@pytest.mark.parametrize("text", ["- 1\n", "a: [", "12"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text):
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=r"settings\.yaml"):
        load(file)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("accelerator: nvidia.com/gpu", "expected both or neither"),
        ("accelerator: google.com/tpu\naccelerators: 4", "tpu_topology: expected with google.com/tpu"),
        ("accelerator: google.com/tpu\naccelerators: 4\ntpu_topology: 2x4", "topology 2x4 has 8 chips. Received: 4 in"),
        (
            "accelerator: google.com/tpu\naccelerators: 4\ntpu_topology: 2x4\nnodes: 2\nimage: i\nscratch: s3://b/s",
            "nodes: a TPU slice of several hosts has no runtime",
        ),
        ("acelerator: nvidia.com/gpu", "acelerator"),
        ("memory: lots", "memory"),
        ("volumes: {lits: data}", "volumes: expected absolute mount paths"),
        ("secrets: {store: data}", "secrets: expected absolute mount paths"),
        ("accelerator: gpu", "accelerator"),
        ("accelerator: a.b/c\naccelerators: 1\naccelerator_type: x", "accelerator_label: expected the node label"),
        ("priority: high", "priority: expected a queue"),
        ("job: TFJob\nrestarts: 2", "a TFJob cannot restart as a whole"),
        ("store: /data/store", "store: expected a folder below one of the volumes"),
        ("image_pull_policy: Sometimes", "image_pull_policy"),
        ("steps: {train: {gpu: 1}}", "gpu"),
        ("tolerations: [{key: a, operator: Equal}]", "expected a value with operator Equal"),
    ],
)
def test_bad_clusters_are_named(tmp_path, text, expected):
    file = tmp_path / "cluster.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=expected):
        load_cluster(file)


def test_an_empty_cluster_file_is_the_default(tmp_path):
    file = tmp_path / "cluster.yaml"
    file.write_text("")
    assert load_cluster(file) == Cluster()


@pytest.mark.parametrize(
    ("name", "mesh", "evaluation"),
    [
        ("gpu", "rows:2, columns:2", ""),
        ("gpu-trainjob", "rows:8, columns:4", "rows:4, columns:2"),
        ("gpu-tfjob", "rows:8, columns:4", "rows:4, columns:2"),
        ("tpu", "rows:4, columns:2", ""),
    ],
)
def test_the_example_clusters_hold_a_mesh(name, mesh, evaluation):
    cluster = load_cluster(Path(__file__).parents[2] / "pipelines" / "clusters" / f"{name}.yaml")
    settings = load(None, [f"mesh={mesh}", f"evaluation_mesh={evaluation}"])
    demanding = cluster.hardware().demand(settings, trains=True, predicts=True)
    assert demanding.accelerator == name[:3]
