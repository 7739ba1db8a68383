"""Training a 3D U-Net on the data set, split over a mesh."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras_spatial as ks  # First: it turns oneDNN on before TensorFlow starts.

# isort: split
import keras
import tensorflow as tf

from components.files import write_json
from components.preprocess.preprocess import open_dataset
from components.train.schedule import Progress, Schedule

CLASSES = 3
MODEL, TRAINING = "model.keras", "training.json"


class TrainingError(RuntimeError):
    """The training gave no usable model."""


def train_model(
    dataset: str,
    model: str,
    *,
    mesh: str,
    layout: str,
    filters: int,
    levels: int,
    dropout: float,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    minutes: float,
    seed: int,
) -> Mapping[str, Mapping[str, Any]]:
    """Train `ks.models.UNet3D` and save it with its history.

    Args:
        dataset: folder that the step preprocess made.
        model: folder to make: `model.keras` (a plain Keras file), `training.json` (history, settings, timing).
        mesh: such as "rows:2, columns:2".
        layout: such as "x:rows, y:columns".
        filters: of the first level; levels: of the network; dropout: rate.
        epochs, batch_size, learning_rate: as Keras; the rate rises over the first 5 % and falls to 1 %.
        minutes: training ends after this time even if epochs are left; 0 for no limit.
        seed: of the weights, the shuffling and the dropout.

    Returns:
        Metadata of the model.

    Raises:
        TrainingError: if the loss is not finite, or no training case is there.
    """
    keras.utils.set_random_seed(seed)
    distribution = ks.SpatialParallel(ks.device_mesh(mesh), layout)
    builder = open_dataset(dataset)
    shape = builder.info.features["image"].shape
    train = batches(builder, "train", batch_size, shuffle=seed)
    validation = batches(builder, "validation", 1)
    steps = int(train.cardinality())
    if steps < 1:
        raise TrainingError(f"{dataset}: no case in the split train. Give at least one case.")
    with distribution.scope():
        network = ks.models.UNet3D(shape, classes=CLASSES, filters=filters, levels=levels, dropout=dropout)
    network.compile(
        optimizer=keras.optimizers.Adam(learning_rate),
        loss=ks.losses.DiceCrossentropy(class_weights=(1, 8, 16), crossentropy_weight=0.3, dice_weight=1.0),
        metrics=[
            ks.metrics.Dice(class_id=1, or_above=True, name="dice_liver"),
            ks.metrics.Dice(class_id=2, name="dice_lesion"),
        ],
    )
    print(
        f"train: {network.count_params()} parameters, {steps} steps an epoch, mesh {mesh}, layout {layout}", flush=True
    )
    # Validation costs as much as a few steps; five times in a training show its course.
    validation_every = max(1, epochs // 5)
    started = time.monotonic()
    history = network.fit(
        train,
        validation_data=validation,
        validation_freq=validation_every,
        epochs=epochs,
        verbose=0,
        callbacks=[
            keras.callbacks.TerminateOnNaN(),
            Schedule(learning_rate, epochs * steps, minutes or None),
            Progress(epochs),
        ],
    )
    seconds = time.monotonic() - started
    losses = history.history.get("loss", [])
    if not losses or not all(abs(value) < float("inf") for value in losses):
        raise TrainingError(f"The loss is not finite after {len(losses)} epochs: {losses[-3:]}. Lower learning_rate.")
    folder = Path(model)
    folder.mkdir(parents=True, exist_ok=True)
    network.save(folder / MODEL)
    summary: list[str] = []
    network.summary(print_fn=lambda line, **_: summary.append(line))
    write_json(
        folder / TRAINING,
        {
            "history": {name: [float(v) for v in values] for name, values in history.history.items()},
            "mesh": mesh,
            "layout": layout,
            "resolution": shape[0],
            "seconds": seconds,
            "epochs": len(losses),
            "validation_every": validation_every,
            "parameters": int(network.count_params()),
            "summary": "\n".join(summary),
        },
    )
    return {
        "model": {
            "framework": f"keras {keras.__version__}, tensorflow {tf.__version__}",
            "mesh": mesh,
            "layout": layout,
            "resolution": shape[0],
            "epochs": len(losses),
            "parameters": int(network.count_params()),
            "final_loss": float(losses[-1]),
        }
    }


def batches(builder: Any, split: str, batch_size: int, shuffle: int | None = None) -> tf.data.Dataset:
    """Batches `(image [B, X, Y, Z, 1] float32, label [B, X, Y, Z] uint8)` of a split, kept in memory after one pass.

    Args:
        builder: of TFDS.
        split: "train", "validation" or "test".
        batch_size: the last batch may be smaller.
        shuffle: a seed, or None for the order of the data set.
    """
    data = builder.as_dataset(split).map(lambda example: (example["image"], example["label"])).cache()
    if shuffle is not None:
        data = data.shuffle(max(1, builder.info.splits[split].num_examples), seed=shuffle)
    return data.batch(batch_size).prefetch(tf.data.AUTOTUNE)
