"""YAML is measured before it is built, wherever it is read."""

import time
import tracemalloc

import pytest

from pipelines.bounded_yaml import YamlError, YamlLimits, mapping, parse_yaml, read_yaml, shortened
from pipelines.cluster import load_cluster
from pipelines.settings import SettingsError, load
from pipelines.submission import PackageError, check_package

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {x: 1, y: 2}\n" + "".join(
    f"{name}: &{name} {{k{name}: [{', '.join([f'*{before}'] * 9)}]}}\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
BAD = {
    "an alias bomb": (BOMB, "values"),
    "a bomb of merged mappings": (MERGES, "values"),
    "a bomb in a title": (BOMB + "title: *i\n", "values"),
    "a list of itself": ("a: &a [*a]", "inside the value that it names"),
    "a mapping of itself": ("&a {x: *a}", "inside the value that it names"),
    "deep lists": ("a: " + "[" * 100_000, "depth"),
    "deep mappings": ("{a: " * 5_000, "depth"),
    "deep blocks": ("- " * 50_000, "depth"),
    "deep keys": ("? " * 50_000, "depth"),
    "a large text": ("a: " + "x" * (1 << 17), "size"),
    "a large text of long letters": ("a: " + "é" * (1 << 16), "size"),
    "many values": ("[" + "1," * 30_000 + "]", "values"),
    "many empty lists": ("[" + "[]," * 30_000 + "]", "values"),
    "a date that is none": ("a: 2020-99-99", "month must be in"),
    "a number of many digits": ("a: " + "9" * 5_000, "digits"),
    "a number that is none": ("a: !!int x", "invalid literal"),
    "a number of no digits": ("a: !!int", "ValueError"),
    "a truth that is none": ("a: !!bool perhaps", "KeyError"),
    "a time that is none": ("a: !!timestamp x", "AttributeError"),
    "an object": ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
    "a key twice": ("epochs: 1\nepochs: 2", "'epochs' occurs twice"),
    "a list as a key": ("? [1]\n: 2", "unhashable"),
    "a NUL": ("a: \0", "special characters are not allowed"),
    "a bracket": ("a: [", "expected the node content"),
    "an alias of nothing": ("a: *b", "undefined alias"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_text_is_named_in_little_time_and_memory(tmp_path, name):
    text, message = BAD[name]
    path = tmp_path / "file.yaml"
    path.write_text(text, encoding="utf-8")
    started = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(YamlError, match=rf"(?s)file\.yaml: .*{message}") as caught:
            read_yaml(path)
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()
    # Counting memory makes Python several times slower.
    assert time.process_time() - started < 8
    assert len(str(caught.value)) < 2_000


@pytest.mark.parametrize("name", ["a bomb in a title", "deep lists", "a date that is none", "a key twice"])
@pytest.mark.parametrize("read", [load, load_cluster])
def test_settings_and_clusters_are_read_so(tmp_path, name, read):
    path = tmp_path / "file.yaml"
    path.write_text(BAD[name][0], encoding="utf-8")
    with pytest.raises(SettingsError, match=rf"(?s)file\.yaml: .*{BAD[name][1]}"):
        read(path)


@pytest.mark.parametrize("content", [b"\xff\xfe\xfa", b"title: caf\xe9", b"a: \xed\xa0\x80"])
def test_what_is_no_utf8_is_named(tmp_path, content):
    path = tmp_path / "file.yaml"
    path.write_bytes(content)
    for read, error in ((load, SettingsError), (load_cluster, SettingsError), (check_package, PackageError)):
        with pytest.raises(error, match=r"file\.yaml: .*UTF-8"):
            read(path)


def test_a_bomb_as_an_assignment_and_as_a_package_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"--set resolutions: .*depth"):
        load(None, ["resolutions=" + "[" * 100_000])
    (tmp_path / "p.yaml").write_text(BOMB)
    with pytest.raises(PackageError, match=r"p\.yaml: .*values"):
        check_package(tmp_path / "p.yaml")


def test_what_stands_for_little_is_read():
    text = "base: &base {cpu: '4'}\na: {<<: *base, memory: 1Gi}\nb: *base\n"
    assert parse_yaml(text, "text") == [{"base": {"cpu": "4"}, "a": {"cpu": "4", "memory": "1Gi"}, "b": {"cpu": "4"}}]
    assert mapping(parse_yaml("", "text"), "text") == {}


@pytest.mark.parametrize("text", ["- 1", "--- {a: 1}\n--- {b: 2}", "1: 2", "word"])
def test_what_is_no_mapping_is_named(text):
    with pytest.raises(YamlError, match="text: expected"):
        mapping(parse_yaml(text, "text"), "text")


def test_limits_can_be_raised(monkeypatch):
    text = "[" + "1," * 30_000 + "]"
    assert len(parse_yaml(text, "text", YamlLimits(values=40_000))[0]) == 30_000
    monkeypatch.setenv("KERAS_SPATIAL_YAML_LIMITS", "values=40000; depth=3")
    assert len(parse_yaml(text, "text")[0]) == 30_000
    with pytest.raises(YamlError, match="depth"):
        parse_yaml("[[[[1]]]]", "text")
    monkeypatch.setenv("KERAS_SPATIAL_YAML_LIMITS", "values=many")
    with pytest.raises(YamlError, match=r"KERAS_SPATIAL_YAML_LIMITS.*Received: 'values=many'"):
        parse_yaml("1", "text")


def test_a_value_in_a_message_is_short():
    assert len(shortened([["x" * 1000] * 1000] * 1000)) < 400


@pytest.mark.parametrize(
    ("text", "value"),
    [("3e-5", 3e-5), ("010", 10), ("1:30", "1:30"), ("1_000", "1_000"), ("-.5", -0.5), ("1e3", 1000.0), ("+4", 4)],
)
def test_numbers_are_those_of_yaml_1_2_and_json(text, value):
    assert parse_yaml(text, "a setting") == [value]
