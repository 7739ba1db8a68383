"""A step that finished is not run again, unless something that it depends on has changed."""

import os
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
    """A step that writes twice the number in its input, and counts its calls."""

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


def test_a_changed_file_behind_a_link_to_its_folder_runs_again(store):
    """Some users mount imagesTr and labelsTr elsewhere and link them."""
    double, folder, elsewhere = Doubler(), store / "data", store / "elsewhere"
    folder.mkdir()
    (elsewhere / "labels").mkdir(parents=True)
    (folder / "labelsTr").symlink_to(elsewhere / "labels")
    (folder / "again").symlink_to("labelsTr")
    for text in ("a", "b"):
        (elsewhere / "labels" / "case").write_text(text)
        call(double, store, text, folders={"folder": str(folder)})
    assert double.calls == 2
    (folder / "again").unlink()
    call(double, store, "c", folders={"folder": str(folder)})
    assert double.calls == 3


def test_changed_code_of_the_user_runs_again(store):
    double, path = Doubler(), store / "blocks.py"
    for run, text in enumerate(("a", "b", "b")):
        path.write_text(text)
        resume.step(
            "double", double, inputs={"source": Artifact(str(store / "source"), {"step_key": "a"})},
            outputs={"target": Artifact(str(store / f"target-{run}.txt"))}, code=[str(path)],
        )  # fmt: skip
    assert double.calls == 2


def test_other_limits_run_again(store, monkeypatch):
    """For example, `hounsfield=no` accepts a case that was in the quarantine."""
    double = Doubler()
    call(double, store, 1)
    monkeypatch.setenv("KERAS_SPATIAL_LIMITS", "hounsfield=no")
    call(double, store, 2)
    assert double.calls == 2
    call(double, store, 3)
    monkeypatch.setenv("KERAS_SPATIAL_LIMITS", " hounsfield = no ; voxels=1073741824")
    call(double, store, 4)
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


def only_record(store):
    [record] = [path for path in (store / "steps").iterdir() if path.suffix == ".json"]
    return record


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "{}", '{"seconds": "many", "outputs": {}}', '{"seconds": 1, "outputs": {"target": {}}}'],
)
def test_a_record_that_cannot_be_read_is_set_aside_and_the_step_runs_again(store, text, capsys):
    double = Doubler()
    call(double, store, 1)
    record = only_record(store)
    record.write_text(text)
    call(double, store, 2)
    assert double.calls == 2
    assert record.with_name(f"{record.name}.unreadable-1").read_text() == text
    assert f"was renamed to {record.name}.unreadable-1" in capsys.readouterr().out
    call(double, store, 3)
    assert double.calls == 2


def removed(path):
    path.unlink()


def cut(path):
    path.write_text(path.read_text()[:-1])


def edited_with_its_size_and_time(path):
    stat = path.stat()
    path.write_text("43")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize("damage", [removed, cut, edited_with_its_size_and_time])
def test_a_result_that_is_not_what_it_was_is_made_again(store, damage, capsys):
    double = Doubler()
    call(double, store, 1)
    damage(store / "1.txt")
    call(double, store, 2)
    assert double.calls == 2
    assert (store / "2.txt").read_text() == "42"
    assert f"{store / '1.txt'} has changed since an earlier run made it" in capsys.readouterr().out


def test_a_file_that_is_missing_in_or_added_to_a_folder_makes_it_again(store):
    calls = []

    def fill(source, target, factor):
        calls.append(target)
        (Path(target) / "part").mkdir(parents=True)
        (Path(target) / "part" / "a").write_text("a")

    call(fill, store, 1)
    call(fill, store, 2)
    assert len(calls) == 1
    (store / "2.txt" / "part" / "a").unlink()
    call(fill, store, 3)
    assert len(calls) == 2
    (store / "3.txt" / "b").write_text("b")
    call(fill, store, 4)
    assert len(calls) == 3


def test_a_source_that_is_edited_with_its_size_and_time_runs_again(store):
    double, folder = Doubler(), store / "data"
    folder.mkdir()
    (folder / "a").write_text("1")
    call(double, store, 1, folders={"folder": str(folder)})
    stat = (folder / "a").stat()
    (folder / "a").write_text("2")
    os.utime(folder / "a", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    call(double, store, 2, folders={"folder": str(folder)})
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
