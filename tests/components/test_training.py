"""Training as practitioners do it, in small form: the networks, objectives, schedules and stopping rules of `train`."""

import dataclasses
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import keras
import numpy as np
import own_networks
import pytest

import keras_spatial as ks
from components.preprocess.preprocess import build_dataset
from components.resume import fingerprint
from components.train import best, memory, network, objective, schedule
from components.train.history import EpochLog, read_epochs, readable
from components.train.schedule import rate
from components.train.settings import (
    LOSSES,
    LocalTrainingSettings,
    TrainingError,
    TrainingSettings,
    files_of,
    imported_by,
)
from components.train.train import train_model
from datasets.phantom import write_lits_folder
from keras_spatial import data
from keras_spatial.volumes import LITS, Channel, Task, ZScore

SMALL = {"mesh": "rows:2", "layout": "x:rows", "filters": 2, "levels": 2, "epochs": 2, "slices": 0}
OWN = {"mesh": "rows:2", "layout": "x:rows", "epochs": 1, "slices": 0, "network": "own_networks:network"}

FROM_MEDICAI = """
from medicai.models import ResNetBackbone, UNet

def network(input_shape, classes):
    encoder = ResNetBackbone(
        input_shape=input_shape, num_blocks=[1, 1, 1, 1], block_type="basic_block", num_filters=[64, 6, 8, 10],
        conv_filters=[64],
    )
    return UNet(
        encoder=encoder, encoder_depth=3, num_classes=classes, decoder_filters=(8, 6, 5, 4, 3),
        classifier_activation=None, decoder_block_type="transpose",
    )
"""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    cases, folder = tmp_path_factory.mktemp("cases"), tmp_path_factory.mktemp("dataset")
    write_lits_folder(cases, cases=4, size=16)
    build_dataset(str(cases), str(folder), resolution=16, mesh="rows:2", layout="x:rows")
    return str(folder)


@pytest.fixture(autouse=True)
def own_code_is_importable(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def trained(dataset, folder, **settings):
    """The folder of a model, and the records of its training."""
    train_model(dataset, str(folder / "model"), scratch=str(folder / "work"), **settings)
    return folder / "model", json.loads((folder / "model" / "training.json").read_text())


def test_the_whole_recipe_of_nnunet(dataset, tmp_path, capsys):
    folder, facts = trained(
        dataset,
        tmp_path,
        **{**SMALL, "levels": 3, "epochs": 3},
        network="residual_unet",
        network_options={"blocks": [1, 1, 1]},
        optimizer="sgd",
        optimizer_options={"momentum": 0.99, "nesterov": True, "weight_decay": 3e-5},
        schedule="poly",
        learning_rate=0.01,
        augmentation="nnunet",
        oversample=0.33,
        rare_classes=("liver",),
        accumulation=2,
        ema=0.9,
        global_clipnorm=12.0,
    )
    assert set(facts["history"]) >= {"loss", "val_loss", "dice_lesion", "val_dice_liver", "supervised1_loss"}
    # The outputs of deep supervision are no part of the model; any Keras loads it.
    model = keras.saving.load_model(folder / "model.keras", compile=False)
    assert len(model.outputs) == 1
    assert model.output_shape == (None, 16, 16, 16, 3)
    out = capsys.readouterr().out
    assert "train:   memory in all" in out
    assert out.index("train:   memory in all") < out.index("train: epoch 1/3")
    assert "left: " in out
    assert "33% of the examples are drawn from the 2 cases for their liver (in 2)" in out


def test_a_network_in_bfloat16(dataset, tmp_path):
    folder, facts = trained(dataset, tmp_path, **{**SMALL, "epochs": 1}, network="vnet", precision="mixed_bfloat16")
    assert np.isfinite(facts["history"]["loss"]).all()
    model = keras.saving.load_model(folder / "model.keras", compile=False)
    assert model.layers[1].dtype_policy.name == "mixed_bfloat16"


def test_a_network_in_float16_whose_loss_is_scaled_has_a_moving_average_too(dataset, tmp_path, monkeypatch):
    validated, consider = [], best.BestWeights.consider

    def told(self, epoch, values):
        scaled = self.model.optimizer
        assert isinstance(scaled, keras.optimizers.LossScaleOptimizer)
        current = scaled.inner_optimizer._model_variables_moving_average
        validated.append([[np.copy(v.numpy()) for v in them] for them in (self.model.trainable_variables, current)])
        consider(self, epoch, values)

    monkeypatch.setattr(best.BestWeights, "consider", told)
    given = {**SMALL, "epochs": 1}
    folder, facts = trained(dataset, tmp_path, **given, network="vnet", precision="mixed_float16", ema=0.9)
    assert np.isfinite(facts["history"]["loss"]).all()
    # While it validates, a model has the averages, and the optimizer keeps the current weights in their place.
    [(averages, current)] = validated
    assert any(np.abs(a - b).max() > 0 for a, b in zip(averages, current, strict=True))
    model = keras.saving.load_model(folder / "model.keras", compile=False)
    for found, expected in zip(model.trainable_variables, averages, strict=True):
        np.testing.assert_array_equal(found.numpy(), expected)


@pytest.fixture(scope="module")
def course(dataset, tmp_path_factory):
    """A training of three epochs with a moving average: its records, its model, and each step's rate and weights."""
    steps, ended = [], schedule.Schedule.on_train_batch_end

    def remembered(self, batch, logs=None):
        weights = [np.copy(v.numpy()) for v in self.model.trainable_variables]
        steps.append((float(self.model.optimizer.learning_rate.numpy()), weights))
        ended(self, batch, logs)

    given = {**OWN, "epochs": 3, "validations": 3, "optimizer": "sgd", "learning_rate": 0.1, "warmup": 0.2, "ema": 0.5}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedule.Schedule, "on_train_batch_end", remembered)
        folder, facts = trained(dataset, tmp_path_factory.mktemp("course"), **given, schedule="poly")
    return facts, keras.saving.load_model(folder / "model.keras", compile=False), steps


def test_each_step_has_the_learning_rate_of_its_schedule(course):
    _, _, steps = course
    assert len(steps) == 6
    expected = [rate(0.1, number / 6, 0.2, "poly") for number in range(6)]
    np.testing.assert_allclose([found for found, _ in steps], expected, rtol=1e-6)
    assert len(set(expected)) == 6


def test_the_best_validation_is_that_of_the_highest_mean_dice(course):
    facts, _, _ = course
    history = facts["history"]
    means = np.mean([history["val_dice_liver"], history["val_dice_lesion"]], axis=0)
    assert len(means) == 3
    assert facts["best"] == {"epoch": int(np.argmax(means)) + 1, "dice": pytest.approx(max(means), rel=1e-6)}


def test_the_model_is_the_moving_average_of_the_weights(course):
    facts, model, steps = course
    weights = [values for _, values in steps[: facts["best"]["epoch"] * 2]]
    average = weights[0]
    for values in weights[1:]:
        average = [0.5 * (a + b) for a, b in zip(average, values, strict=True)]
    for found, expected in zip(model.trainable_variables, average, strict=True):
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-6)
    assert any(np.abs(a - b).max() > 1e-4 for a, b in zip(average, weights[-1], strict=True))


def test_augmented_cases_are_others(dataset, tmp_path):
    def loss(name, augmentation):
        return trained(dataset, tmp_path / name, **OWN, augmentation=augmentation)[1]["history"]["loss"][0]

    plain = loss("plain", "off")
    assert loss("again", "off") == plain
    assert abs(loss("augmented", "strong") - plain) > 1e-5 * abs(plain)


def test_a_users_own_network_and_loss_are_trained_unmodified(dataset, tmp_path):
    _, facts = trained(dataset, tmp_path, **OWN, network_options={"width": 3}, loss="own_networks:loss")
    assert facts["parameters"] == (27 + 1) * 3 + (81 + 1) * 3 + (3 + 1) * 3


def test_a_network_of_a_library_is_trained_unmodified(dataset, tmp_path, monkeypatch):
    pytest.importorskip("medicai")
    (tmp_path / "from_medicai.py").write_text(FROM_MEDICAI)
    monkeypatch.syspath_prepend(str(tmp_path))
    _, facts = trained(dataset, tmp_path, **{**OWN, "network": "from_medicai:network"})
    assert facts["parameters"] > 100_000
    assert np.isfinite(facts["history"]["loss"]).all()


def test_a_file_is_fine_tuned(dataset, tmp_path):
    model = network.make(TrainingSettings(filters=2, levels=2), (16, 16, 16, 1), 3)
    model.save(tmp_path / "first.keras")
    rates = {"learning_rate": 1e-9, "schedule": "constant", "warmup": 0.0}
    folder, _ = trained(dataset, tmp_path, **{**OWN, "network": str(tmp_path / "first.keras"), **rates})
    after = keras.saving.load_model(folder / "model.keras", compile=False)
    for a, b in zip(model.trainable_weights, after.trainable_weights, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_images_of_differing_sizes_get_one_that_the_network_takes(tmp_path):
    def size(largest, **settings):
        return network.image_size(TrainingSettings(**settings), largest, channels=1, classes=3)

    assert size((20, 9, 33), levels=2) == (20, 10, 34)
    assert size((20, 9, 33), network="own_networks:network") == (24, 16, 40)
    assert size((20, 9, 33), network="own_networks:halved_four_times") == (32, 16, 48)
    network.make(TrainingSettings(filters=2, levels=2), (24, 24, 24, 1), 3).save(tmp_path / "fixed.keras")
    assert size((20, 9, 24), network=str(tmp_path / "fixed.keras")) == (24, 24, 24)
    with pytest.raises(
        TrainingError, match=r"holds the largest image, of up to \(20, 9, 33\).*input of \(24, 24, 24\)"
    ):
        size((20, 9, 33), network=str(tmp_path / "fixed.keras"))


def test_a_network_of_open_size_is_made_for_that_of_the_images(tmp_path):
    own = own_networks.halved_four_times((1,), 3)
    own.save(tmp_path / "open.keras")
    for named in ("own_networks:halved_four_times", str(tmp_path / "open.keras")):
        model = network.make(TrainingSettings(network=named), (32, 16, 48, 1), 3)
        assert model.output_shape == (None, 32, 16, 48, 3)
        with pytest.raises(TrainingError, match="network: "):
            network.make(TrainingSettings(network=named), (32, 16, 40, 1), 3)
    image = np.random.default_rng(0).normal(size=(1, 32, 16, 48, 1)).astype("float32")
    np.testing.assert_allclose(model(image), own(image), atol=1e-5)


def test_the_model_is_that_of_the_best_validation_and_not_the_last(dataset, tmp_path, monkeypatch):
    """The weights of each validation are kept as well, and the test declares a middle one the best."""
    scores, seen = iter([0.2, 0.9, 0.1, 0.3]), {}
    consider = best.BestWeights.consider

    def told(self, epoch, values):
        seen[epoch] = [np.array(w) for w in self.model.get_weights()]
        consider(self, epoch, {"dice_liver": next(scores)})

    monkeypatch.setattr(best.BestWeights, "consider", told)
    folder, facts = trained(dataset, tmp_path, **{**SMALL, "epochs": 4})
    assert facts["best"] == {"epoch": 2, "dice": 0.9}
    saved = keras.saving.load_model(folder / "model.keras", compile=False).get_weights()
    for found, expected in zip(saved, seen[1], strict=True):
        np.testing.assert_array_equal(found, expected)
    assert any(np.abs(a - b).max() > 0 for a, b in zip(seen[1], seen[3], strict=True))


def test_training_ends_when_validations_get_no_better(dataset, tmp_path, monkeypatch, capsys):
    scores = iter([0.5, 0.4, 0.5, 0.3, 0.2, 0.1])
    consider = best.BestWeights.consider
    monkeypatch.setattr(
        best.BestWeights, "consider", lambda self, epoch, values: consider(self, epoch, {"dice_liver": next(scores)})
    )
    _, facts = trained(dataset, tmp_path, **{**SMALL, "epochs": 6}, validations=6, patience=2)
    assert facts["epochs"] == 3
    assert "no validation gave a better Dice than that of epoch 1 (0.5)" in capsys.readouterr().out


def test_an_epoch_that_no_validation_fell_on_is_validated_at_the_end(dataset, tmp_path):
    _, facts = trained(dataset, tmp_path, **{**OWN, "epochs": 5}, validations=2)
    assert facts["validation_every"] == 2
    assert [epoch["epoch"] for epoch in read_epochs(tmp_path / "work" / "epochs.jsonl")] == [0, 1, 2, 3, 4]
    assert len(facts["history"]["val_dice_liver"]) == 3


@pytest.mark.parametrize(
    ("recompute", "memory", "advice"),
    [("off", "0.4MB", "recompute=auto or precision="), ("auto", "0.05MB", "Or set precision=")],
)
def test_a_device_that_cannot_hold_a_step_is_named_with_a_mesh_that_can(dataset, tmp_path, recompute, memory, advice):
    settings = {**SMALL, "levels": 1 if recompute == "auto" else 2, "recompute": recompute, "device_memory": memory}
    with pytest.raises(TrainingError, match=r"It fits on \d+ devices: mesh='") as caught:
        trained(dataset, tmp_path, **settings)
    assert f"{advice}mixed_bfloat16" in str(caught.value)
    assert not (tmp_path / "model").exists()


def test_layers_are_recomputed_where_memory_is_short():
    def planned(**changes):
        settings = TrainingSettings(mesh="rows:2", layout="x:rows", filters=2, levels=3, **changes)
        model = network.make(settings, (16, 16, 16, 1), 3)
        spatial = ks.partition(model, ks.SpatialParallel(ks.device_mesh(settings.mesh), settings.layout))
        objective.compile_model(spatial, settings, LITS)
        return memory.plan_training(spatial, settings, lambda: model).memory

    whole = planned()
    assert planned(recompute="auto", device_memory=f"{0.9e-6 * whole:.6f}MB") <= 0.9 * whole


def test_what_the_users_code_does_not_know_is_named_before_the_first_step(dataset, tmp_path):
    """A step that is run by itself names the same faults as the check before a run (test_checking)."""
    with pytest.raises(TrainingError, match="does not take input_shape, classes and"):
        trained(dataset, tmp_path, **OWN, network_options={"widht": 3})


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"network": "unett"}, "network: expected one of unet, residual_unet, vnet, attention_unet, module:function"),
        ({"network": "a b:c"}, "network: expected module:function"),
        ({"network": "own:network", "filters": 4}, "filters: the network 'own:network' does not read this setting"),
        ({"network": "m.keras", "precision": "mixed_bfloat16"}, "precision: .*The file determines it"),
        ({"loss": "dice"}, "loss: expected one of dice_crossentropy"),
        ({"device_memory": "lots"}, "device_memory"),
        ({"augmentation": "some"}, "augmentation"),
        ({"mesh": "rows:3", "layout": "x:rows", "processes": 2}, "processes: expected a divisor of the mesh's 3"),
    ],
)
def test_settings_that_do_not_fit_together_are_named(settings, expected):
    with pytest.raises(ValueError, match=expected):
        LocalTrainingSettings(**settings)


def test_the_key_of_a_step_holds_the_users_files(tmp_path, monkeypatch):
    assert files_of("unet") == ""
    assert files_of("runs/first/model.keras") == "runs/first/model.keras"
    assert files_of("own_networks:network") == str(Path(__file__).parent / "own_networks.py")
    package = tmp_path / "own_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert files_of("own_package.deep:network") == str(package)


def test_the_key_of_a_step_holds_what_the_users_module_imports_from_its_folder(tmp_path, monkeypatch):
    for name, text in {
        "one_module.py": "import keras\ndef network():\n    from some_blocks import block\n",
        "some_blocks.py": "import some_tools.deep as deep\nimport one_module\n",
        "some_tools/__init__.py": "",
        "some_tools/deep.py": "from . import other",
        "some_tools/other.py": "",
        "unrelated.py": "",
        "damaged.py": "(",
        "one_package/__init__.py": "import some_blocks\nimport damaged",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    tools = [str(tmp_path / f"some_tools/{name}.py") for name in ("__init__", "deep", "other")]
    blocks, one = str(tmp_path / "some_blocks.py"), str(tmp_path / "one_module.py")
    assert imported_by("one_module:network") == [blocks, *tools]
    assert imported_by("one_package.deep:network") == sorted([str(tmp_path / "damaged.py"), one, blocks, *tools])
    assert imported_by("unet") == imported_by("runs/first/model.keras") == imported_by("no_such:network") == []
    assert imported_by("nibabel:load") == []
    before = fingerprint(tmp_path / "some_tools")
    (tmp_path / "some_tools" / "__pycache__").mkdir()
    (tmp_path / "some_tools" / "__pycache__" / "deep.cpython-311.pyc").write_bytes(b"")
    assert fingerprint(tmp_path / "some_tools") == before


@pytest.mark.parametrize("fall", ["cosine", "poly"])
def test_the_learning_rate_falls_to_nearly_nothing(fall):
    rates = [rate(0.01, progress / 100, 0.05, fall) for progress in range(101)]
    assert rates[5] == pytest.approx(0.01)
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[100] <= 0.0001
    assert rate(0.01, 0.525, 0.05, "poly") == pytest.approx(0.01 * 0.5**0.9)


def test_a_constant_rate_stays():
    assert rate(0.01, 0.99, 0.05, "constant") == 0.01


OPTIMIZERS = {
    "adam": keras.optimizers.Adam,
    "adamw": keras.optimizers.AdamW,
    "lion": keras.optimizers.Lion,
    "nadam": keras.optimizers.Nadam,
    "rmsprop": keras.optimizers.RMSprop,
    "sgd": keras.optimizers.SGD,
}


def test_every_name_of_an_optimizer_or_a_loss_is_known():
    assert set(get_args(TrainingSettings.model_fields["optimizer"].annotation)) == set(OPTIMIZERS)
    assert set(LOSS_KINDS) == set(LOSSES)
    assert set(get_args(TrainingSettings.model_fields["augmentation"].annotation)) == set(AUGMENTATIONS)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_has_its_options_accumulation_average_and_clipping(name):
    options = {"weight_decay": 0.25}
    made = objective.optimizer(
        TrainingSettings(
            optimizer=name, optimizer_options=options, learning_rate=0.5, accumulation=3, ema=0.75, global_clipnorm=12.0
        )
    )
    assert type(made) is OPTIMIZERS[name]
    assert (made.weight_decay, float(made.learning_rate.numpy())) == (0.25, 0.5)
    assert (made.gradient_accumulation_steps, made.global_clipnorm) == (3, 12.0)
    assert (made.use_ema, made.ema_momentum) == (True, 0.75)
    plain = objective.optimizer(TrainingSettings(optimizer=name))
    assert (plain.gradient_accumulation_steps, plain.global_clipnorm, plain.use_ema) == (None, None, False)


LOSS_KINDS = {
    "dice_crossentropy": (ks.losses.DiceCrossentropy, {"dice_weight": 0.5}),
    "crossentropy": (ks.losses.Crossentropy, {"from_logits": False}),
    "soft_dice": (ks.losses.SoftDice, {"over": "case"}),
}


@pytest.mark.parametrize("name", LOSS_KINDS)
def test_a_loss_has_its_options(name):
    kind, options = LOSS_KINDS[name]
    made = objective.loss(TrainingSettings(loss=name, loss_options=options), LITS)
    assert type(made) is kind
    [(option, value)] = options.items()
    assert made.get_config()[option] == value
    assert objective.loss(TrainingSettings(loss=name), LITS).get_config()[option] != value


AUGMENTATIONS = {"off": None, "paper": data.PAPER, "strong": data.STRONG, "nnunet": data.NNUNET}


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_an_augmentation_is_that_of_its_name(name):
    expected = AUGMENTATIONS[name] and dataclasses.replace(AUGMENTATIONS[name], classes=3)
    assert objective.augmentation(TrainingSettings(augmentation=name), LITS) == expected


def test_class_weights_reach_the_loss():
    made = objective.loss(TrainingSettings(class_weights=(1.0, 2.0, 3.0)), LITS)
    assert made.crossentropy.class_weights == (1.0, 2.0, 3.0)


def test_the_task_weighs_the_classes_where_the_settings_do_not():
    settings = TrainingSettings(loss="crossentropy")
    assert objective.loss(settings, LITS).class_weights == (1.0, 8.0, 16.0)
    assert objective.loss(settings, dataclasses.replace(LITS, loss_weights=())).class_weights is None


def test_intensities_without_bounds_are_neither_clipped_nor_raised_to_a_power():
    settings = TrainingSettings(augmentation="nnunet")
    windowed = objective.augmentation(settings, LITS)
    assert windowed.bounds == (0, 1) and windowed.gamma > 0
    task = Task("toy", ("background", "a", "b", "c"), (Channel("T1", ZScore()),))
    standardised = objective.augmentation(settings, task)
    assert (standardised.bounds, standardised.gamma, standardised.classes) == (None, 0, 4)


@pytest.mark.parametrize(("minutes", "left"), [(0, "90 s"), (1, "30 s")])
def test_the_time_left_is_that_of_the_epochs_and_minutes_that_are_left(tmp_path, monkeypatch, capsys, minutes, left):
    times = iter([100.0, 100.0, 130.0])
    monkeypatch.setattr("components.train.history.time", SimpleNamespace(monotonic=lambda: next(times)))
    log = EpochLog(tmp_path / "epochs.jsonl", epochs=4, minutes=minutes)
    log.on_train_begin()
    log.on_epoch_begin(0)
    log.on_epoch_end(0, {"loss": 0.5})
    assert capsys.readouterr().out == f"train: epoch 1/4 after 30 s, about {left} left: loss 0.5\n"


def test_times_are_readable():
    assert [readable(s) for s in (3.2, 99, 720, 9000)] == ["3 s", "99 s", "12 min", "2.5 h"]


def test_a_model_of_several_outputs_is_reduced_to_its_first():
    inputs = keras.Input((4, 4, 4, 1))
    model = keras.Model(inputs, [keras.layers.Conv3D(3, 1)(inputs), keras.layers.Conv3D(3, 1)(inputs)])
    assert network.inference_model(model).output_shape == (None, 4, 4, 4, 3)


def test_each_process_reads_its_own_blocks_alone(tmp_path, capfd):
    """Images are stored in the two blocks of the mesh; if they were in one block, both would read everything."""
    cases = tmp_path / "cases"
    write_lits_folder(cases, cases=4, size=32, difficulty="hard")
    settings = {"mesh": "rows:2", "layout": "x:rows"}
    read = {}
    for name, stored in (("blocks", settings), ("whole", {"mesh": "rows:1", "layout": "x:rows"})):
        folder = tmp_path / name
        build_dataset(str(cases), str(folder / "dataset"), resolution=16, **stored)
        capfd.readouterr()
        trained(str(folder / "dataset"), folder, **{**SMALL, "epochs": 3}, processes=2, validations=3)
        out = capfd.readouterr().out
        read[name] = [int(n) for n in re.findall(r"train:   process \d has read (\d+) bytes", out)]
        assert ("its own blocks of the images" in out) == (name == "blocks")
    assert len(read["blocks"]) == len(read["whole"]) == 2
    # Records hold some text besides; what is read ahead differs by a batch or two.
    assert max(read["blocks"]) < 0.75 * min(read["whole"])
