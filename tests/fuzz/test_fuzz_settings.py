"""Any text as settings, as a cluster file or as an assignment gives settings or a named error, with little memory."""

import json

import pytest
import yaml
from fuzzing import at_most, explore
from hypothesis import strategies as st
from kfp.local import placeholder_utils

from pipelines.bounded_yaml import YamlError, YamlLimits, parse_yaml
from pipelines.cluster import Cluster, load_cluster
from pipelines.settings import Settings, SettingsError, dump, load

TOKENS = st.sampled_from(
    ["a", "b", "x: ", "- ", "? ", ": ", "\n", "\n  ", " ", "[", "]", "{", "}", ",", "&a ", "*a", "&b ", "*b", "<<: ",
     "|\n ", ">\n ", "'", '"', "#", "---\n", "...\n", "!!int ", "!!float ", "!!timestamp ", "!!binary ", "!!set ",
     "!!omap ", "!!pairs ", "!!str ", "!x ", "%YAML 1.1\n", "1", "0x", "1e999", ".nan", "2020-13-01", "12:61", "=",
     "\t", "\\", "é", "\U0001f600", "\ufeff", "\x85", "yes", "~", "@", "`"]
)  # fmt: skip
NAMES = [*Settings.model_fields, *Cluster.model_fields]
VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20),
        st.sampled_from(["fold-5-of-3", "fold-0-of-3", "{{$}}", "$x^{$", "rows:2, columns:2", "x:rows", 10**30]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=12,
)  # fmt: skip
TEXTS = st.one_of(
    st.lists(TOKENS, max_size=60).map("".join),
    st.dictionaries(st.one_of(st.sampled_from(NAMES), st.text(max_size=8)), VALUES, max_size=4).map(
        lambda values: yaml.safe_dump(values, allow_unicode=True)
    ),
    st.builds(lambda name, parts: f"{name}: " + "".join(parts), st.sampled_from(NAMES), st.lists(TOKENS, max_size=20)),
)


def test_any_text_is_settings_or_a_named_error(tmp_path):
    path = tmp_path / "file.yaml"

    def check(content):
        path.write_bytes(content)
        for read in (load, load_cluster):
            try:
                with at_most(32):
                    read(path)
            except SettingsError as error:
                assert 0 < len(str(error)) < 8_000
                str(error).encode("utf-8")

    encoded = TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass"))
    explore(check, examples=250, content=st.one_of(encoded, encoded, st.binary(max_size=60)))


def test_any_assignment_is_a_setting_or_a_named_error(tmp_path):
    file = tmp_path / "settings.yaml"

    def check(name, value):
        try:
            settings = load(None, [f"{name}={value}"])
        except SettingsError as error:
            assert len(str(error)) < 8_000
            return
        file.write_text(dump(settings), encoding="utf-8")
        assert load(file) == settings

    # This character stands for a byte of the command line that is not UTF-8.
    surrogates = st.text(st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF), min_size=1, max_size=3)
    values = st.one_of(TEXTS, st.text(max_size=40), surrogates)
    explore(check, examples=200, name=st.sampled_from([*Settings.model_fields]), value=values)


def test_what_is_measured_is_what_is_built():
    """The count of `values`, with aliases as what they stand for, is what a walk over the result finds."""

    def size(value):
        if isinstance(value, dict):
            return 1 + sum(size(k) + size(v) for k, v in value.items())
        return 1 + sum(map(size, value)) if isinstance(value, list) else 1

    def check(text):
        try:
            documents = parse_yaml(text, "text", YamlLimits(values=200))
        except YamlError:
            return
        # Sets, merges and pairs are built smaller than they are written.
        assert sum(map(size, documents)) <= 200

    anchors = st.lists(
        st.sampled_from(
            ["&a [1, 2]", "&b [*a, *a]", "*a", "*b", "&c {x: *b}", "*c", "[*c, *c]", "&d [*c, *b, *a]", "*d"]
        ),
        min_size=1, max_size=8,
    ).map(lambda parts: "\n".join(f"- {part}" for part in parts))  # fmt: skip
    explore(check, examples=150, text=st.one_of(anchors, TEXTS))


def test_no_accepted_text_is_replaced_by_kfp():
    """KFP's own resolution of placeholders, run on what the settings accept."""
    executor = {"inputs": {"parameterValues": {"title": "secret"}}, "outputs": {"outputFile": "out"}}
    parts = st.sampled_from(["{{", "}}", "$", ".", "inputs", "{", "}", "[", "'", "parameters", "json_escape", " ", "a"])

    def check(text):
        try:
            title = load(None, [f"title={text}"]).title
        except SettingsError:
            return
        found = placeholder_utils.resolve_individual_placeholder(
            element=title, executor_input_dict=executor, pipeline_resource_name="pipeline", task_resource_name="task",
            pipeline_root="root", pipeline_job_id="1", pipeline_task_id="2",
        )  # fmt: skip
        assert found == title == json.loads(json.dumps(title))

    texts = st.one_of(st.lists(parts, max_size=12).map("".join), st.just("{{$}}"), st.just("{{$.json_escape[1]}}"))
    explore(check, examples=200, text=texts)
    with pytest.raises(SettingsError):
        load(None, ["title={{$}}"])
