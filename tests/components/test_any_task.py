"""A user's own data go through all steps: two MR channels, four classes, volumes of different sizes."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import keras_spatial as ks
from components.cases import open_folder
from components.compare.compare import compare_models
from components.cross_validation.cross_validation import report_folds
from components.evaluate.evaluate import evaluate_model
from components.evaluate.results import load_metrics
from components.export.export import described, export_model
from components.ingest.ingest import ingest_volumes
from components.preprocess.preprocess import build_dataset, open_dataset
from components.report.report import report_run
from components.segment.segment import segment_folder
from components.train.network import image_size
from components.train.settings import TrainingSettings
from components.train.task import largest_image, task_of
from components.train.train import train_model
from datasets.cases import NoCasesError
from datasets.phantom import write_lits_folder
from keras_spatial.volumes import LITS, TaskError, read_task, read_volume, to_canonical, write_task

LABELS = ("background", "core", "rim", "tail")
TRAINING = {
    "mesh": "rows:2, columns:1", "layout": "x:rows, y:columns", "filters": 4, "levels": 2, "dropout": 0.0, "epochs": 2,
    "batch_size": 2, "learning_rate": 0.01, "minutes": 0, "seed": 0, "backup_steps": 50, "slices": 1,
}  # fmt: skip


def write(folder, cases):
    training = []
    for number in range(cases):
        shape = (12 + number % 3, 12, 8 + number % 2)
        label = np.zeros(shape, np.uint8)
        label[2:6, 2:8, 1:5], label[6:9, 2:8, 1:5], label[9:11, 2:8, 1:5] = 1, 2, 3
        image = np.stack([40.0 * label, 900 - 200.0 * label], -1).astype(np.float32)
        for part, array in (("imagesTr", image), ("labelsTr", label)):
            (folder / part).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.diag([-1.0, -1.0, 1.0, 1.0])), folder / f"{part}/p{number}.nii.gz")
        training.append({"image": f"imagesTr/p{number}.nii.gz", "label": f"labelsTr/p{number}.nii.gz"})
    description = {
        "name": "Toy", "modality": {"0": "T1", "1": "T2"}, "labels": {str(i): n for i, n in enumerate(LABELS)},
        "training": training,
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(description))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The results of all steps, run once on seven cases, of which one is bad."""
    root = tmp_path_factory.mktemp("run")
    write(root / "source", 7)
    bad = nib.load(root / "source/labelsTr/p3.nii.gz")
    nib.save(nib.Nifti1Image(np.asarray(bad.dataobj) + np.uint8(3), bad.affine), root / "source/labelsTr/p3.nii.gz")
    paths = {name: str(root / name) for name in ("cases", "dataset", "model", "evaluation", "predictions")}
    ingest_volumes(str(root / "source"), paths["cases"], str(root / "quarantine.html"))
    build_dataset(paths["cases"], paths["dataset"], resolution=0)
    train_model(paths["dataset"], paths["model"], **TRAINING)
    facts = evaluate_model(
        paths["cases"], paths["dataset"], paths["model"], paths["evaluation"], paths["predictions"],
        mesh=TRAINING["mesh"], layout=TRAINING["layout"], thresholds=False,
    )  # fmt: skip
    return root, paths, facts


def test_a_bad_case_is_in_the_quarantine_and_no_other_is_lost(run):
    root, paths, _ = run
    assert "LabelValueError" in (root / "quarantine.html").read_text()
    listed = json.loads((root / "cases/dataset.json").read_text())["training"]
    assert [Path(x["label"]).name[:2] for x in listed] == ["p0", "p1", "p2", "p4", "p5", "p6"]
    cases = open_dataset(paths["dataset"]).info.metadata["cases"]
    assert sorted(n for names in cases.values() for n in names) == ["p0", "p1", "p2", "p4", "p5", "p6"]


def test_the_model_has_the_classes_and_channels_of_the_data(run):
    _, paths, _ = run
    task = read_task(paths["model"])
    assert task.labels == LABELS and [c.name for c in task.channels] == ["T1", "T2"]
    history = json.loads((run[0] / "model/training.json").read_text())["history"]
    assert {"dice_core", "dice_rim", "dice_tail", "val_dice_core"} <= set(history)


def test_every_class_is_scored(run):
    _, paths, facts = run
    (case,) = load_metrics(paths["evaluation"])
    assert list(case.classes) == list(LABELS[1:])
    confusion = np.array(json.loads(facts["evaluation"]["confusion"]))
    assert confusion.shape == (4, 4)
    reference = [c.reference for c in case.classes.values()]
    np.testing.assert_array_equal(confusion.sum(1)[1:], reference)
    np.testing.assert_array_equal(confusion.sum(0)[1:], [c.predicted for c in case.classes.values()])
    assert {"dice_core", "dice_rim", "dice_tail"} <= set(facts["evaluation"])


def test_the_report_names_the_classes(run):
    root, paths, _ = run
    report_run(*paths.values(), str(root / "page.html"), str(root / "summary.md"), title="", seconds={"train": 2.0})
    page = (root / "page.html").read_text()
    assert all(name in page for name in LABELS[1:]) and "Liver Dice" not in page and 'data-show="' in page
    assert "| core |" in (root / "summary.md").read_text()
    assert "<h1>Toy: segmentation of core, rim and tail</h1>" in page
    assert (root / "summary.md").read_text().startswith("# Toy: segmentation of core, rim and tail\n")


def test_folds_are_put_together(run):
    root, paths, _ = run
    table = report_folds([paths["evaluation"]], str(root / "folds.html"), str(root / "folds.json"), title="")
    assert {"dice_core", "dice_rim", "dice_tail"} <= set(table["table"])
    page = (root / "folds.html").read_text()
    assert "<h1>Segmentation of core, rim and tail: cross-validation</h1>" in page


def test_the_gate_compares_class_by_class(run):
    root, paths, _ = run
    baseline = str(root / "evaluation/metrics.json")
    decision = compare_models(paths["evaluation"], str(root / "decision.json"), baseline=baseline, tolerance=0.0)
    assert decision["decision"]["accepted"]


def test_new_cases_are_segmented_by_the_task_of_the_model(run, tmp_path):
    _, paths, _ = run
    write(tmp_path / "new", 1)
    segment_folder(
        str(tmp_path / "new/imagesTr"), paths["model"], str(tmp_path / "out"), mesh="rows:2", layout="x:rows"
    )
    labels = np.asarray(nib.load(tmp_path / "out/segmentation-p0.nii.gz").dataobj)
    assert labels.shape == (12, 12, 8) and labels.max() <= 3


@pytest.mark.parametrize(
    "labels, image, reader, names",
    [
        (("tumour", "portal vein"), "liver_0.nii.gz", "TaskReader", ["liver_0"]),
        (("liver", "cancer"), "liver_0.nii.gz", "NoneType", ["volume-0"]),
        (("liver", "tumor"), "liver_0_0000.nii.gz", "NoneType", ["volume-0"]),
        (("liver", "tumor", "vein"), "liver_0_0000.nii.gz", "TaskReader", ["liver_0"]),
    ],
)
def test_a_folder_is_what_its_description_says_whatever_its_files_are_called(tmp_path, labels, image, reader, names):
    for path in (f"imagesTr/{image}", "labelsTr/liver_0.nii.gz"):
        (tmp_path / path).parent.mkdir()
        nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)), tmp_path / path)
    named = {name: n for n, name in enumerate(("background", *labels))}
    if "_0000" in image:
        description = {"channel_names": {"0": "CT"}, "labels": named}
    else:
        training = [{"image": f"imagesTr/{image}", "label": "labelsTr/liver_0.nii.gz"}]
        description = {
            "modality": {"0": "CT"}, "labels": {str(n): name for name, n in named.items()}, "training": training,
        }  # fmt: skip
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    with open_folder(tmp_path) as folder:
        assert (type(folder.reader).__name__, [case.name for case in folder.cases]) == (reader, names)


def test_a_folder_that_says_nothing_is_told_what_is_missing(tmp_path):
    (tmp_path / "images").mkdir()
    with pytest.raises(NoCasesError, match=r"Other data need a dataset\.json"):
        ingest_volumes(str(tmp_path), str(tmp_path / "cases"), str(tmp_path / "q.html"))


def test_the_model_alone_is_enough_wherever_it_is_copied(run, tmp_path):
    root, paths, _ = run
    write(tmp_path / "new", 1)
    (tmp_path / "elsewhere").mkdir()
    copy = shutil.copy(root / "model/model.keras", tmp_path / "elsewhere" / "model.keras")
    for model, out in ((paths["model"], "folder"), (copy, "file")):
        segment_folder(str(tmp_path / "new/imagesTr"), model, str(tmp_path / out), mesh="rows:2", layout="x:rows")
        assert [path.name for path in (tmp_path / out).iterdir()] == ["segmentation-p0.nii.gz"]
    found = [np.asarray(nib.load(tmp_path / out / "segmentation-p0.nii.gz").dataobj) for out in ("folder", "file")]
    np.testing.assert_array_equal(*found)


def test_a_fine_tuned_model_has_the_task_of_its_new_data(run, tmp_path):
    _, paths, _ = run
    start = tmp_path / "start.keras"
    ks.models.UNet3D((16, 16, 16, 2), 4, filters=2, levels=2).save(start)
    write_task(start, LITS)
    settings = {name: value for name, value in TRAINING.items() if name not in ("filters", "levels", "dropout")}
    train_model(paths["dataset"], str(tmp_path / "tuned"), network=str(start), **{**settings, "epochs": 1})
    assert read_task(tmp_path / "tuned" / "model.keras") == task_of(open_dataset(paths["dataset"]))


def test_a_model_of_another_task_is_not_scored(run, tmp_path):
    _, paths, _ = run
    shutil.copytree(paths["model"], tmp_path / "model")
    write_task(tmp_path / "model" / "model.keras", LITS)
    with pytest.raises(TaskError, match="expected a model of the data set's task"):
        evaluate_model(
            paths["cases"], paths["dataset"], str(tmp_path / "model"), str(tmp_path / "e"), str(tmp_path / "p"),
            mesh="rows:1", layout="x:rows",
        )  # fmt: skip


def test_the_exported_model_is_described_by_its_task(run, tmp_path):
    _, paths, _ = run
    export_model(paths["model"], paths["evaluation"], str(tmp_path / "exported"))
    task = task_of(open_dataset(paths["dataset"]))
    assert read_task(tmp_path / "exported" / "model.keras") == read_task(tmp_path / "exported" / "task.json") == task
    facts = json.loads((tmp_path / "exported" / "model.json").read_text())
    assert facts["output"] == "logits of background, core, rim, tail [batch, x, y, z, 4]"
    assert facts["classes"] == list(LABELS) and facts["channels"] == ["T1", "T2"]
    assert facts["input_shape"][-1] == 2 and facts["resolution"] is None and facts["spacing"] == [1.0, 1.0, 1.0]
    assert "0 T1: (value - mean) / deviation" in facts["input"] and "HU" not in facts["input"]
    assert (tmp_path / "exported" / "serving" / "1" / "saved_model.pb").is_file()


def test_a_model_of_lits_is_described_by_its_window():
    facts = described(LITS)
    assert "CT: clip((value + 512) / 1024, 0, 1)" in facts["input"] and "whole HU" in facts["input"]
    assert facts["output"] == "logits of background, liver, lesion [batch, x, y, z, 3]"


def test_scans_of_lits_on_their_own_grids_are_predicted_as_they_were_trained(tmp_path):
    write_lits_folder(tmp_path / "source", cases=4, size=16)
    for number in (0, 1, 3):
        for part in ("volume", "segmentation"):
            path = tmp_path / "source" / f"{part}-{number}.nii.gz"
            whole = nib.load(path)
            nib.save(nib.Nifti1Image(np.asarray(whole.dataobj)[:-2, :, 1:-1], whole.affine), path)
    paths = {name: str(tmp_path / name) for name in ("cases", "dataset", "model", "evaluation", "predictions")}
    ingest_volumes(str(tmp_path / "source"), paths["cases"], str(tmp_path / "quarantine.html"))
    build_dataset(paths["cases"], paths["dataset"], resolution=0)
    train_model(paths["dataset"], paths["model"], **{**TRAINING, "epochs": 1})
    builder = open_dataset(paths["dataset"])
    size = image_size(TrainingSettings(levels=TRAINING["levels"]), largest_image(builder), channels=1, classes=3)
    (number,) = builder.info.metadata["cases"]["test"]
    # Only the header of the scan is read: the network is fed the stored blocks.
    scan = Path(paths["cases"]) / f"volume-{number}.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros(nib.load(scan).shape, np.int16), nib.load(scan).affine), scan)
    evaluate_model(*paths.values(), mesh="rows:2", layout="x:rows", thresholds=False)
    image = next(iter(ks.data.load(builder, "test", size=size).as_numpy_iterator()))[0]
    scores = ks.load_model(Path(paths["model"]) / "model.keras").predict(image, verbose=0)[0]
    predicted = to_canonical(read_volume(tmp_path / f"predictions/prediction-{number}.nii.gz")).array
    inside = tuple(slice((n - k) // 2, (n - k) // 2 + k) for n, k in zip(size, predicted.shape, strict=True))
    assert predicted.shape != size, "the held-out scan is smaller than the network's input"
    np.testing.assert_array_equal(predicted, np.argmax(scores, -1)[inside])
    # The step segment prepares it in the same way, even from the file alone.
    copy = shutil.copy(Path(paths["model"]) / "model.keras", tmp_path / "copy.keras")
    volume = tmp_path / "source" / f"volume-{number}.nii.gz"
    segment_folder(str(volume), str(copy), str(tmp_path / "out"), mesh="rows:2", layout="x:rows")
    found = to_canonical(read_volume(tmp_path / "out" / f"segmentation-{number}.nii.gz")).array
    np.testing.assert_array_equal(found, predicted)
