"""Settings come from YAML and `--set`, and what is wrong with them is named."""

from pathlib import Path

import pytest
import yaml

from pipelines.cluster import Cluster, load_cluster
from pipelines.settings import Settings, SettingsError, dump, load


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("resolutoin=64", "Did you mean 'resolution'"),
        ("zzzz=1", "Known: data"),
        ("resolution=sixty", "resolution: .*integer.*Received: 'sixty'"),
        ("resolution=20", "levels needs a multiple of 8. Received: 20"),
        ("mesh=rows2", "mesh: expected .*Received: 'rows2'"),
        ("mesh=rows:0, columns:2", "axis 'rows' must be a positive integer"),
        ("layout=x:lines", r"layout: expected axes of the mesh \['rows', 'columns'\]. Received: 'lines'"),
        ("layout=x:rows, y:rows", "every mesh axis may stand only once"),
        ("layout=q:rows", "image axes batch, x, y, z. Received: 'q'"),
        ("layout=batch:rows", "batch_size: expected a multiple of the 2 parts"),
        ("difficulty=impossible", "difficulty: .*Received: 'impossible'"),
        ("epochs=0", "epochs: .*greater than or equal to 1. Received: 0"),
        ("learning_rate=-1", "learning_rate: .*Received: -1"),
        ("resolution", "--set: expected name=value"),
    ],
)
def test_bad_settings_are_named(assignment, expected):
    with pytest.raises(SettingsError, match=expected):
        load(None, [assignment])


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
        ("acelerator: nvidia.com/gpu", "acelerator"),
        ("memory: lots", "memory"),
        ("volumes: {lits: data}", "absolute mount paths"),
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


@pytest.mark.parametrize("name", ["gpu", "tpu"])
def test_the_example_clusters_are_valid(name):
    cluster = load_cluster(Path(__file__).parents[2] / "pipelines" / "clusters" / f"{name}.yaml")
    assert cluster.accelerators == 4
