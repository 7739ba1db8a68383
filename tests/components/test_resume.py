"""A step that finished is not run again, unless something that it depends on has changed."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from components import resume


@dataclass
class Artifact:
    path: str
    metadata: dict = field(default_factory=dict)

    @property
    def uri(self):
        return self.path


class Doubler:
    """Writes twice the number in its input, and counts its calls."""

    calls = 0

    def __call__(self, source, target, *, factor=2, folder=None):
        self.calls += 1
        value = int(Path(source).read_text()) * factor
        Path(target).write_text(str(value))
        return {"target": {"value": value}}


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv(resume.STEPS_VARIABLE, str(tmp_path / "steps"))
    (tmp_path / "steps").mkdir()
    (tmp_path / "source").write_text("21")
    return tmp_path


def call(function, store, run, key="a", factor=2, folders=None):
    target = Artifact(str(store / f"{run}.txt"))
    inputs = {"source": Artifact(str(store / "source"), {"step_key": key})}
    outputs = {"target": target}
    resume.step("double", function, inputs=inputs, outputs=outputs, settings={"factor": factor}, folders=folders)
    return target


def test_same_inputs_take_the_earlier_result(store):
    double = Doubler()
    first, second = call(double, store, 1), call(double, store, 2)
    assert double.calls == 1
    assert (store / "2.txt").read_text() == "42"
    assert second.metadata == first.metadata
    assert second.metadata["value"] == 42


@pytest.mark.parametrize("change", [{"key": "b"}, {"factor": 3}])
def test_other_inputs_or_settings_run_again(store, change):
    double = Doubler()
    call(double, store, 1)
    call(double, store, 2, **change)
    assert double.calls == 2


def test_a_changed_folder_runs_again(store):
    double, folder = Doubler(), store / "data"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / name).write_text(name)
        call(double, store, name, folders={"folder": str(folder)})
    assert double.calls == 2


def test_changed_code_runs_again(store, monkeypatch):
    double = Doubler()
    call(double, store, 1)
    monkeypatch.setattr(resume, "code_version", lambda: "another")
    call(double, store, 2)
    assert double.calls == 2


def test_a_lost_result_is_made_again(store):
    double = Doubler()
    call(double, store, 1)
    (store / "1.txt").unlink()
    call(double, store, 2)
    assert double.calls == 2


def test_a_failed_step_is_not_recorded(store):
    def fail(source, target, factor):
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        call(fail, store, 1)
    assert list((store / "steps").iterdir()) == []
    double = Doubler()
    call(double, store, 1)
    assert double.calls == 1


def test_without_a_store_every_step_runs(store, monkeypatch):
    monkeypatch.delenv(resume.STEPS_VARIABLE)
    double = Doubler()
    call(double, store, 1)
    call(double, store, 2)
    assert double.calls == 2


def test_results_are_copied_where_links_are_impossible(store, monkeypatch):
    def refuse(source, target):
        raise OSError("cross-device link")

    monkeypatch.setattr(resume.os, "link", refuse)
    double = Doubler()
    call(double, store, 1)
    call(double, store, 2)
    assert double.calls == 1
    assert (store / "2.txt").read_text() == "42"
