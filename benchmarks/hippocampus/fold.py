"""One fold: its data set, its training and its held-out cases. Finished parts are not done again."""

import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras_spatial as ks  # First: it turns oneDNN on before TensorFlow starts.

# isort: split
import keras
import numpy as np
from pydantic import TypeAdapter

from benchmarks.hippocampus.network import unet
from benchmarks.hippocampus.settings import Settings
from components.files import write_json
from components.train.schedule import Schedule
from datasets import decathlon
from keras_spatial import data
from keras_spatial.backup import read_position
from keras_spatial.evaluation import LabelledCase, evaluate_classes
from keras_spatial.inference import segment
from keras_spatial.volumes import TASK, Task, read_volume, write_task

MODEL, CASES, TRAINING = "model.keras", "cases.json", "training.json"
_CASES = TypeAdapter(list[LabelledCase])
# The number of steps between two entries of the log and two backups; a pass over the data takes 76 steps of two
# volumes.
_EPOCH = 50


def run_fold(source: str | Path, out: Path, fold: int, settings: Settings) -> list[LabelledCase]:
    """Train a fold and score its held-out cases, or read the results of an earlier call.

    Args:
        source: a folder in the layout of the Decathlon.
        out: the folder of the benchmark, which contains that of the fold.
        fold: the number of the fold, from 0.
        settings: the settings of the benchmark.
    """
    folder = out / f"fold-{fold}"
    if (folder / CASES).is_file():
        return _CASES.validate_json((folder / CASES).read_bytes())
    builder = decathlon.prepare(source, out / "data", split=f"fold-{fold}-of-{settings.folds}-brief")
    metadata: Any = builder.info.metadata
    task = Task.of(metadata["task"])
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / TRAINING).is_file():
        train(builder, task, folder, settings)
    distribution = ks.SpatialParallel(ks.device_mesh(settings.mesh), settings.layout)
    model = ks.load_model(folder / MODEL, distribution=distribution, compile=False)
    cases = {case.name: case for case in decathlon.read_layout(source).cases}
    scored, timings = [], []
    for name in metadata["cases"]["test"]:
        started = time.perf_counter()
        output = folder / f"predictions/{name}.nii.gz"
        found = segment(model, cases[name].images, output, flips=settings.flips, task=task)
        timings.append([int(found.labels.size), time.perf_counter() - started])
        truth = read_volume(cases[name].label).array
        scored.append(evaluate_classes(found.labels, truth, found.volume.spacing, task.labels, case=name))
    write_json(folder / "timings.json", timings)
    part = folder / f".part-{CASES}"
    part.write_bytes(_CASES.dump_json(scored))
    part.replace(folder / CASES)
    return scored


def train(builder: Any, task: Task, folder: Path, settings: Settings) -> None:
    """Train on a data set, from the last backup if there is one, and write model, task and log."""
    keras.utils.set_random_seed(settings.seed)
    keras.config.set_dtype_policy(settings.policy)
    distribution = ks.SpatialParallel(ks.device_mesh(settings.mesh), settings.layout)
    with distribution.scope():
        model = unet(settings.size, len(task.labels), settings.filters)
    model.compile(
        optimizer=keras.optimizers.Adam(settings.learning_rate, use_ema=True, ema_momentum=settings.ema),
        loss=ks.losses.DiceCrossentropy(crossentropy_weight=1.0, dice_weight=1.0, over="batch"),
    )
    position = read_position(folder / "backup.npz")
    epoch = position[0] if position else 0
    started, processor = time.perf_counter(), sum(os.times()[:2])
    # The data have left and right hippocampi, so a mirror image along x is a valid case; front and back distinguish the
    # classes.
    augmentation = data.Augmentation(
        flips="x",
        rotation=False,
        translation=0.08,
        angle=0.26,
        zoom=0.2,
        occasional=0.2,
        shear=0.1,
        noise=0.05,
        classes=len(task.labels),
        bounds=None,
    )
    history = model.fit(
        data.load(
            builder,
            "train",
            settings.batch_size,
            shuffle=True,
            seed=settings.seed,
            epochs=None,
            first_step=epoch * _EPOCH,
            augmentation=augmentation,
            size=settings.size,
        ),
        steps_per_epoch=_EPOCH,
        epochs=-(-settings.steps // _EPOCH),
        verbose=2,  # pyright: ignore[reportArgumentType] - Keras's annotation names only the text "auto".
        callbacks=[
            keras.callbacks.TerminateOnNaN(),
            Schedule(settings.learning_rate, settings.steps),
            ks.Backup(folder, steps=_EPOCH),
        ],
    )
    losses = [float(x) for x in history.history["loss"]]
    if not np.isfinite(losses).all():
        raise RuntimeError(f"{folder}: the loss is not finite: {losses[-3:]}. Lower the learning rate.")
    model.save(folder / MODEL)
    write_task(folder / MODEL, task)
    write_json(folder / TASK, task.as_dict())
    write_json(
        folder / TRAINING,
        {
            "loss": losses,
            "resumed_at_epoch": epoch,
            "seconds": time.perf_counter() - started,
            "processor_seconds": sum(os.times()[:2]) - processor,
            "parameters": int(model.count_params()),
            "settings": asdict(settings),
        },
    )


def read_training(out: Path, fold: int) -> dict[str, Any]:
    """Read what `train` wrote about a fold."""
    return json.loads((out / f"fold-{fold}" / TRAINING).read_text(encoding="utf-8"))
