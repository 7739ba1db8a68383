"""The parameters of the components are the fields of their groups of settings, and those of the definition of a run."""

import importlib
import inspect
from pathlib import Path
from typing import Annotated

import pytest
from kfp import dsl
from kfp.dsl.types import type_utils

from components.base import component
from components.settings import Group
from components.train.settings import LocalTrainingSettings, TrainingSettings
from pipelines.settings import Settings

ROOT = Path(__file__).parents[2]
# Inputs that mean something other than the setting of the same name.
OTHER = {
    "phantom": {"seed"},
    "segment": {"model"},
    "segment-job": {"model"},
    "fingerprint": {"data"},
    "ingest-folder": {"data"},
}


def components():
    for path in sorted(ROOT.glob("components/*/component.py")):
        module = importlib.import_module(f"components.{path.parent.name}.component")
        for made in vars(module).values():
            if hasattr(made, "component_spec") and made.python_func.__globals__["__name__"] == module.__name__:
                yield pytest.param(made, id=made.component_spec.name)


@pytest.mark.parametrize("made", list(components()))
def test_inputs_that_are_settings_have_their_type_and_default(made):
    inputs = made.component_spec.inputs or {}
    for name, facts in inputs.items():
        field = Settings.model_fields.get(name)
        skipped = OTHER.get(made.component_spec.name, set())
        if field is None or name in skipped or not type_utils.is_parameter_type(facts.type):
            continue
        assert facts.default == Settings.kfp_value(name, field.default), name
        expected = {str: "STRING", int: "NUMBER_INTEGER", float: "NUMBER_DOUBLE", bool: "BOOLEAN", list: "LIST"}
        assert type_utils.get_parameter_type_name(facts.type) == expected[Settings.kfp_type(name)], name


@pytest.mark.parametrize(("name", "group"), [("train", LocalTrainingSettings), ("train_job", TrainingSettings)])
def test_every_training_setting_is_an_explicit_input_with_its_help(name, group):
    made = getattr(importlib.import_module(f"components.{name}.component"), name)
    inputs = made.component_spec.inputs
    for field, facts in group.model_fields.items():
        assert inputs[field].description == facts.description
        assert f"{field}:" in made.component_spec.implementation.container.command[-1]


# Outputs as large as the data, or a model with its logs; all others are JSON, tables and pages.
LARGE = {
    "phantom": {"volumes"},
    "ingest": {"cases"},
    "ingest-folder": {"cases"},
    "preprocess": {"dataset"},
    "train": {"model"},
    "train-job": {"model"},
    "evaluate": {"predictions"},
    "evaluate-job": {"predictions"},
    "segment": {"predictions"},
    "segment-job": {"predictions"},
    "gather": {"predictions"},
}


class Called(Exception):
    """What a component passes to the function `step`: its outputs, and those that become references."""


@pytest.mark.parametrize("made", [c for c in components() if c.id not in ("fingerprint", "finish", "validate")])
def test_large_outputs_are_passed_on_by_reference(made, tmp_path, monkeypatch):
    """The rest is what the user interface shows, or what leaves the pipeline."""

    def step(name, function, *, outputs=(), stored=(), **others):
        raise Called(set(outputs), set(stored))

    monkeypatch.setattr("components.resume.step", step)
    spec = made.component_spec
    given = {name: dsl.Artifact(uri=str(tmp_path / name)) for name in spec.outputs if name != "Output"}
    for name, facts in spec.inputs.items():
        if not type_utils.is_parameter_type(facts.type):
            given[name] = dsl.Artifact(uri=str(tmp_path / name))
        elif not facts.optional:
            given[name] = ""
    with pytest.raises(Called) as called:
        made.python_func(**given)
    outputs, stored = called.value.args
    assert stored == LARGE.get(spec.name, set()) and stored <= outputs


class Own(Group):
    """Settings of a test."""

    number: int = 3
    words: tuple[str, ...] = ("a",)
    options: dict[str, float] = {}  # noqa: RUF012 - pydantic copies it.


@component
def own_component(text: str, settings: Annotated[dict, Own]) -> str:
    """Return its settings.

    Args:
        text: any text.
    """
    import json

    return json.dumps({"text": text, **settings})


def test_a_new_setting_is_one_field():
    signature = inspect.signature(own_component.python_func)
    assert [str(p) for p in signature.parameters.values()] == [
        "text: str",
        "number: int = 3",
        "words: str = '[\"a\"]'",
        "options: str = '{}'",
    ]
    assert (
        own_component.python_func(text="t", number=4)
        == '{"text": "t", "number": 4, "words": "[\\"a\\"]", "options": "{}"}'
    )
    # And back: the group can read what the component passes on.
    assert Own.model_validate({"number": 4, "words": '["a"]', "options": '{"b": 1}'}).options == {"b": 1.0}
