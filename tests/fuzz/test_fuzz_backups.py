"""Damaged backups, records and logs are set aside by name, or read as they were; nothing resumes silently wrong."""

import contextlib
import shutil
import warnings
from dataclasses import fields
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from fuzzing import FAULTS, at_most, damaged, explore
from hypothesis import strategies as st

from components import resume
from components.files import append_json
from components.train.best import FACTS, BestWeights
from components.train.history import history, read_epochs
from datasets.decathlon.fingerprints import fingerprint
from datasets.decathlon.layout import read_layout
from datasets.phantom import write_lits_folder
from keras_spatial import backup
from keras_spatial.volumes import Channel, Percentiles, Task

KINDS = [*FAULTS, "bit", "before", "gone", "zeros", "swap"]


@st.composite
def damages(draw):
    """A fault, as a function of the bytes of a file: None stands for a missing file."""
    kind, place = draw(st.sampled_from(KINDS)), draw(st.floats(0, 1, exclude_max=True))
    noise, other = draw(st.binary(min_size=1, max_size=24)), draw(st.floats(0, 1, exclude_max=True))

    def damage(content):
        data = damaged(content, kind, place, noise)
        at, to = int(place * len(data)), int(other * len(data))
        if kind == "bit":
            data[at] ^= 1 << (noise[0] % 8)
        elif kind == "before":
            data[:0] = noise
        elif kind == "zeros":
            # What a disk that has lost a block shows.
            data[at : at + 512] = bytes(len(data[at : at + 512]))
        elif kind == "swap":
            data[at : at + 16], data[to : to + 16] = data[to : to + 16], data[at : at + 16]
        return None if kind == "gone" else bytes(data)

    return damage


def put(path, content):
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)


def emptied(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def test_a_damaged_backup_is_set_aside_or_restores_what_it_was(tmp_path):
    generator = np.random.default_rng(0)
    values = [
        generator.normal(size=(3, 3, 4)).astype("float32"),
        tf.cast(generator.normal(size=(7,)), tf.bfloat16).numpy(),
        np.array(12, np.int64),
    ]
    variables, metric = [tf.Variable(value) for value in values], tf.Variable(0.5)
    path = tmp_path / "backup.npz"
    backup.write(path, variables, [metric], epoch=3, step=7)
    whole = path.read_bytes()

    def check(damage):
        folder = emptied(tmp_path / "copy")
        path = folder / "backup.npz"
        path.write_bytes(whole)
        put(path, damage(whole))
        for variable in variables:
            variable.assign(tf.zeros_like(variable))
        with at_most(16), warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            position = backup.read_position(path)
            if position is not None:
                assert backup._restore(path, variables, [metric]) == position == (3, 7)
                for variable, value in zip(variables, values, strict=True):
                    np.testing.assert_array_equal(variable.numpy(), value)
                return
        assert not path.exists()
        left = [p.name for p in folder.iterdir()]
        assert left in ([], ["backup.npz.unreadable-1"])
        assert [str(w.message) for w in told if "renamed to backup.npz.unreadable-1" in str(w.message)] or not left

    explore(check, examples=120, damage=damages())


class Artifact:
    def __init__(self, path, metadata=None):
        self.path, self.uri, self.metadata = str(path), str(path), dict(metadata or {})


@pytest.mark.parametrize("damaged", ["record", "result"])
def test_a_step_whose_record_or_result_is_damaged_gives_what_it_gave(tmp_path, monkeypatch, damaged):
    steps, calls = tmp_path / "steps", []
    monkeypatch.setenv(resume.STEPS_VARIABLE, str(steps))

    def make(source, target):
        calls.append(target)
        Path(target).mkdir(parents=True)
        (Path(target) / "weights").write_bytes(b"the weights of a model")
        return {"target": {"dice": 0.625, "classes": ["background", "liver"]}}

    def run(name):
        target = Artifact(tmp_path / "runs" / name)
        inputs = {"source": Artifact(tmp_path / "source", {"step_key": "a"})}
        resume.step("make", make, inputs=inputs, outputs={"target": target})
        assert (Path(target.path) / "weights").read_bytes() == b"the weights of a model"
        return {name: value for name, value in target.metadata.items() if name != "step_seconds"}

    steps.mkdir()
    expected = run("first")
    (record,) = steps.glob("make-*.json")
    result = tmp_path / "runs" / "first" / "weights"
    good = record.read_bytes(), result.read_bytes()

    def check(damage):
        emptied(steps)
        shutil.rmtree(tmp_path / "runs")
        result.parent.mkdir(parents=True)
        record.write_bytes(good[0])
        result.write_bytes(good[1])
        path = record if damaged == "record" else result
        put(path, damage(path.read_bytes()))
        changed = not path.exists() or path.read_bytes() != (good[0] if damaged == "record" else good[1])
        calls.clear()
        assert run("second") == expected
        # Only white space in JSON may change and still be accepted; a result must not change at all.
        assert calls or not changed or damaged == "record"

    explore(check, examples=40, damage=damages())


def test_damaged_best_weights_are_set_aside_or_are_what_they_were(tmp_path):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile()
    good = tmp_path / "good"
    best = BestWeights(good, 0, 1)
    best.set_model(model)
    best.consider(2, {"dice_liver": 0.5})
    expected = model.get_weights()
    files = sorted(p.name for p in good.iterdir())
    assert files == ["best-2.weights.h5", FACTS]

    def check(name, damage):
        folder = emptied(tmp_path / "copy")
        for path in good.iterdir():
            shutil.copy(path, folder)
        put(folder / name, damage((folder / name).read_bytes()))
        model.set_weights([np.zeros_like(value) for value in expected])
        found = BestWeights(folder, 0, 1)
        found.set_model(model)
        if found.epoch < 0:
            assert not (folder / FACTS).exists()
        else:
            assert (found.epoch, found.dice) == (2, 0.5)
            found.restore()
            for ours, theirs in zip(model.get_weights(), expected, strict=True):
                np.testing.assert_array_equal(ours, theirs)

    explore(check, examples=60, name=st.sampled_from(files), damage=damages())


def test_damaged_numbers_of_a_case_are_found_again(tmp_path):
    write_lits_folder(tmp_path / "source", 1, size=16)
    for part, name in (("volume", "images"), ("segmentation", "labels")):
        (tmp_path / "source" / name).mkdir()
        (tmp_path / "source" / f"{part}-0.nii.gz").rename(tmp_path / "source" / name / "a.nii.gz")
    labels = ("background", "organ", "tumour")
    layout = read_layout(tmp_path / "source", ["CT"], labels)
    task = Task(layout.name, labels, (Channel("CT", Percentiles(0, 1, 0, 1)),))
    store = tmp_path / "store"
    expected = fingerprint(layout.cases, task, store)
    (path,) = store.glob("*.npz")
    whole = path.read_bytes()

    def check(damage):
        path.write_bytes(whole)
        put(path, damage(whole))
        with at_most(16):
            found = fingerprint(layout.cases, task, store)
        assert [getattr(found, f.name) for f in fields(found)] == [getattr(expected, f.name) for f in fields(expected)]

    explore(check, examples=60, damage=damages())


def test_of_a_damaged_log_whole_lines_are_read(tmp_path):
    log = tmp_path / "epochs.jsonl"
    for epoch in range(4):
        append_json(log, {"epoch": epoch, "seconds": 1.5 * epoch, "values": {"loss": 1.0, "val_dice_liver": 0.5}})
    whole = log.read_bytes()

    def check(damage):
        log.touch()
        put(log, damage(whole))
        found = read_epochs(log)
        assert len(found) <= 5
        assert all(np.isfinite(value) or value for values in history(log).values() for value in values)
        with contextlib.suppress(FileNotFoundError):
            log.unlink()

    explore(check, examples=150, damage=damages())
