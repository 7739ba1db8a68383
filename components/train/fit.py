"""One process of a training: data, network, fit, and the files that the first process writes."""

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

import keras_spatial as ks  # First: it turns oneDNN on before TensorFlow starts.

# isort: split
import keras
import numpy as np
import tensorflow as tf

from components.files import write_json
from components.preprocess.preprocess import open_dataset
from components.train.history import EpochLog, elapsed, history
from components.train.schedule import Schedule
from components.train.settings import LOGS, MODEL, TRAINING, TrainingError, TrainingSettings
from keras_spatial import data, processes
from keras_spatial.data.store import Store

CLASSES = 3
_BACKUP = "backup.npz"
# Validation costs as much as a few steps; five times in a training show its course.
_VALIDATIONS = 5


def fit(dataset: str, model: str, work: str, settings: TrainingSettings) -> None:
    """Train, and write the model. All processes of the job call it with the same arguments.

    Args:
        dataset: folder that the step preprocess made.
        model: folder to make, see `components.train.train.train_model`.
        work: folder for the backup and the log, from which a restarted training goes on. All processes see it.
        settings: of the training.

    Raises:
        TrainingError: if the loss is not finite, or no training case is there.
    """
    keras.utils.set_random_seed(settings.seed)
    distribution = ks.SpatialParallel(ks.device_mesh(settings.mesh), settings.layout)
    builder = open_dataset(dataset)
    job, folder = processes.current(), Path(model)
    log, backup = Path(work) / "epochs.jsonl", Path(work) / _BACKUP
    cases = _cases(dataset, builder)
    steps = -(-cases // settings.batch_size)
    epoch = _resume(backup, log, job)
    network = _network(distribution, builder.info.features["image"].shape, settings)
    if job.is_first:
        print(
            f"train: {network.count_params()} parameters, {steps} steps an epoch, mesh {settings.mesh}, layout "
            f"{settings.layout}, {job.count} process(es)",
            flush=True,
        )
    every = max(1, settings.epochs // _VALIDATIONS)
    with _logs(folder / LOGS, job) as logs:
        network.fit(
            # One order for all epochs, which depends on seed and epoch alone: a restarted training begins inside it.
            data.load(
                builder,
                "train",
                settings.batch_size,
                shuffle=True,
                seed=settings.seed,
                epochs=None,
                first_step=epoch * steps,
            ),
            steps_per_epoch=steps,
            validation_data=data.load(builder, "validation"),
            validation_freq=every,
            epochs=settings.epochs,
            verbose=0,  # pyright: ignore[reportArgumentType] - Keras's annotation names only the text "auto".
            callbacks=[
                keras.callbacks.TerminateOnNaN(),
                Schedule(settings.learning_rate, settings.epochs * steps, settings.minutes or None, elapsed(log)),
                keras.callbacks.TensorBoard(str(logs), write_graph=False),
                *_slices(builder, logs, every, settings.slices),
                EpochLog(log, settings.epochs),
                # Last: what it has backed up is in the log.
                ks.Backup(work, settings.backup_steps, keep=True),
            ],
        )
    if job.is_first:
        _check(log, backup)
        _write(folder, network, log, settings, every, job.count)


def _cases(dataset: str, builder: Any) -> int:
    try:
        return Store(builder, "train").cases
    except data.StoreError as error:
        raise TrainingError(f"{dataset}: no case in the split train. Give at least one case. {error}") from error


def _resume(backup: Path, log: Path, job: processes.Processes) -> int:
    """The epoch in which an interrupted training goes on; 0 for a new one, whose log begins empty."""
    backup.parent.mkdir(parents=True, exist_ok=True)
    if not backup.exists():
        if job.is_first:
            log.unlink(missing_ok=True)
        return 0
    with np.load(backup) as file:
        about = json.loads(str(file["about"]))
    if job.is_first:
        print(f"train: goes on in epoch {about['epoch'] + 1}, after step {about['step']}", flush=True)
    return int(about["epoch"])


def _network(distribution: Any, shape: tuple[int, ...], settings: TrainingSettings) -> Any:
    with distribution.scope():
        network = ks.models.UNet3D(
            shape, classes=CLASSES, filters=settings.filters, levels=settings.levels, dropout=settings.dropout
        )
    network.compile(
        optimizer=keras.optimizers.Adam(settings.learning_rate),
        loss=ks.losses.DiceCrossentropy(class_weights=(1, 8, 16), crossentropy_weight=0.3, dice_weight=1.0),
        metrics=[
            ks.metrics.Dice(class_id=1, or_above=True, name="dice_liver"),
            ks.metrics.Dice(class_id=2, name="dice_lesion"),
        ],
    )
    return network


@contextlib.contextmanager
def _logs(folder: Path, job: processes.Processes) -> Any:
    """TensorBoard's folder. All processes predict the slices that it shows; the others' files are thrown away."""
    if job.is_first:
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary)


def _slices(builder: Any, logs: Path, every: int, count: int) -> list[keras.callbacks.Callback]:
    if not count:
        return []
    # It imports Matplotlib, which only this needs.
    from keras_spatial.tensorboard import SliceImages

    store = Store(builder, "validation")
    read = [store.read(case, data.Part().box(store.shape(case))) for case in range(min(count, store.cases))]
    images, labels = np.stack([image for image, _ in read]), np.stack([label for _, label in read])
    return [SliceImages(logs, images, labels, every=every)]


def _check(log: Path, backup: Path) -> None:
    losses = history(log).get("loss", [])
    if not losses or not all(np.isfinite(losses)):
        # Going on from such weights is no use: the same command begins anew.
        backup.unlink(missing_ok=True)
        raise TrainingError(f"The loss is not finite after {len(losses)} epochs: {losses[-3:]}. Lower learning_rate.")


def _write(folder: Path, network: Any, log: Path, settings: TrainingSettings, every: int, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    network.save(folder / MODEL)
    summary: list[str] = []
    network.summary(print_fn=lambda line, **_: summary.append(line))
    values = history(log)
    write_json(
        folder / TRAINING,
        {
            "history": values,
            "mesh": settings.mesh,
            "layout": settings.layout,
            "resolution": network.input_shape[1],
            "seconds": elapsed(log),
            "epochs": len(values["loss"]),
            "validation_every": every,
            "parameters": int(network.count_params()),
            "processes": count,
            "peak_bytes": _peak_bytes(network, count),
            "framework": f"keras {keras.__version__}, tensorflow {tf.__version__}",
            "summary": "\n".join(summary),
        },
    )


def _peak_bytes(network: Any, count: int) -> dict[str, int]:
    """Peak memory of this process and its accelerators, by name."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    name = "training process" if count == 1 else f"training, process 0 of {count}"
    found = {name: 1024 * peak}
    for gpu in tf.config.list_logical_devices("GPU"):
        found[f"training, {gpu.name}"] = int(tf.config.experimental.get_memory_info(gpu.name)["peak"])
    return found
