"""One process of a training: data, network, fit, and the files that the first process writes."""

import contextlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras_spatial as ks  # First: it turns oneDNN on before TensorFlow starts.

# isort: split
import keras
import numpy as np
import tensorflow as tf

from components import console, devices
from components.files import append_json, write_json
from components.preprocess.preprocess import near_dataset, open_dataset
from components.train import network as networks
from components.train import objective, tracking
from components.train.best import BestWeights, forget, plain_name
from components.train.feeding import Feed, describe, oversampling
from components.train.history import EpochLog, elapsed, history, read_epochs
from components.train.memory import plan_training
from components.train.schedule import Schedule
from components.train.settings import LOGS, MODEL, READ, TRAINING, TrainingError, TrainingSettings
from components.train.task import largest_image, task_of
from keras_spatial import data, processes
from keras_spatial.backup import read_position
from keras_spatial.data.store import Store
from keras_spatial.planning import readable
from keras_spatial.volumes import TASK, write_task

_BACKUP = "backup.npz"


def fit(dataset: str, model: str, work: str, settings: TrainingSettings) -> None:
    """Train, and write the model. Every process of the job must call it with the same arguments.

    Args:
        dataset: the folder of the step preprocess, by path or URL.
        model: the folder to make, see `components.train.train.train_model`.
        work: the folder for the backup and the log, from which a restarted training resumes. All processes see it.
        settings: the settings of the training.

    Raises:
        TrainingError: if the loss is not finite, there are no training cases, the network cannot be made, or a step
            does not fit into a device's memory.
    """
    keras.utils.set_random_seed(settings.seed)
    distribution = devices.distribution(settings)
    dataset = near_dataset(dataset, READ)
    builder = open_dataset(dataset)
    job, folder = processes.current(), Path(model)
    log, backup = Path(work) / "epochs.jsonl", Path(work) / _BACKUP
    store = _store(dataset, builder)
    state = ks.Backup(work, settings.backup_steps, keep=True)
    state.take_folder()
    epoch = _resume(backup, log, job)
    task, largest = task_of(builder), largest_image(builder)
    rare = oversampling(builder, settings, task)
    classes = len(task.labels)
    size = None if largest is None else networks.image_size(settings, largest, store.channels, classes)
    shape = (*(size or store.static_shape), store.channels)

    def twin() -> keras.Model:
        model = networks.make(settings, shape, classes)
        objective.compile_model(model, settings, task)
        return model

    with distribution.scope():
        whole = networks.make(settings, shape, classes)
        inference = networks.inference_model(whole)
        partitioned = isinstance(whole, ks.Model) and whole.distribution is not None
        network: Any = whole if partitioned else ks.partition(whole, distribution)
        objective.compile_model(network, settings, task)
    plan = plan_training(network, settings, twin)
    feed = Feed(store, network, settings.batch_size, size)
    # A validation batch has one case for each part of the batch axis, so that each process can read its own cases.
    validation = Feed(Store(builder, "validation"), network, distribution.shards("batch"), size)
    steps = feed.steps
    if job.is_first:
        shared_by = "1 process" if job.count == 1 else f"{job.count} processes"
        console.note(
            "train",
            f"network {settings.network} with {network.count_params()} parameters, mesh {settings.mesh!r}, layout "
            f"{settings.layout!r}, {shared_by}, {console.count(steps, 'step')} per epoch; each device needs "
            f"{readable(plan.memory)}",
        )
        reads = f"whole images, because {feed.why_whole}" if feed.why_whole else "its own blocks of the images"
        console.detail("train", f"every process reads {reads}")
        if rare is not None:
            console.detail("train", describe(rare, task))
        console.detail("train", f"plan: {plan}")
    every = max(1, settings.epochs // settings.validations)
    best = BestWeights(Path(work), settings.patience, every)

    with _logs(folder / LOGS, job) as logs, tracking.run(settings, first=job.is_first) as tracked:
        network.fit(
            # The order of all epochs depends only on the seed, so that a restarted training can begin inside it.
            feed.load(
                shuffle=True,
                seed=settings.seed,
                epochs=None,
                first_step=epoch * steps,
                augmentation=objective.augmentation(settings, task),
                oversampling=rare,
            ),
            steps_per_epoch=steps,
            validation_data=validation.load(),
            validation_freq=every,
            epochs=settings.epochs,
            verbose=0,
            callbacks=[
                keras.callbacks.TerminateOnNaN(),
                Schedule(
                    settings.learning_rate,
                    settings.epochs * steps,
                    settings.minutes or None,
                    elapsed(log),
                    settings.warmup,
                    settings.schedule,
                ),
                best,
                keras.callbacks.TensorBoard(str(logs), write_graph=False),
                *_slices(builder, logs, every, settings.slices, size),
                EpochLog(log, settings.epochs, settings.minutes),
                *tracked,
                # The backup comes last, so that everything in it is also in the log.
                state,
            ],
        )
    last = int(job.exchange("last epoch", str(_check(log, backup) if job.is_first else 0))[0])
    if best.validated < last:
        values = network.evaluate(validation.load(), verbose=0, return_dict=True)
        best.consider(last, values)
        if job.is_first:
            _log_validation(log, values)
    read = feed.store.bytes_read + validation.store.bytes_read
    console.detail("train", f"process {job.rank} has read {read} bytes of the data set")
    if job.is_first:
        best.restore()
        _write(folder, network, inference, log, settings, every, steps, job.count, best)
        write_task(folder / MODEL, task)
        write_json(folder / TASK, task.as_dict())
        loss = console.figure(history(log)["loss"][-1])
        found = f"best Dice {console.figure(best.dice)} on the validation cases, in epoch {best.epoch + 1}"
        console.result("train", f"{console.count(last + 1, 'epoch')}, last loss {loss}, {found}")


def _store(dataset: str, builder: Any) -> Store:
    try:
        return Store(builder, "train")
    except data.StoreError as error:
        raise TrainingError(f"{dataset}: no case in the split train. Give at least one case. {error}") from error


def _resume(backup: Path, log: Path, job: processes.Processes) -> int:
    """The epoch in which an interrupted training resumes; 0 for a new one, whose log begins empty."""
    # Only the first process reads the backup and renames one that cannot be read; the others get its result.
    position = read_position(backup) if job.is_first else None
    if job.is_first and position is None:
        log.unlink(missing_ok=True)
        forget(log.parent)
    if job.is_first and position is not None:
        console.note("train", f"resuming in epoch {position[0] + 1}, after step {position[1]}")
    return int(job.exchange("position of the backup", str(position[0] if position else 0))[0])


@contextlib.contextmanager
def _logs(folder: Path, job: processes.Processes) -> Any:
    """TensorBoard's folder for the `with` block: all processes write there, and only the first keeps its files."""
    if job.is_first:
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary)


def _slices(
    builder: Any, logs: Path, every: int, count: int, size: tuple[int, int, int] | None
) -> list[keras.callbacks.Callback]:
    if not count:
        return []
    # This imports Matplotlib, which nothing else in a training needs.
    from keras_spatial.tensorboard import SliceImages

    read = list(data.load(builder, "validation", size=size).take(count).as_numpy_iterator())
    images, labels = (np.concatenate([batch[i] for batch in read]) for i in (0, 1))
    return [SliceImages(logs, images, labels, every=every)]


def _check(log: Path, backup: Path) -> int:
    """The last epoch, from 0.

    Raises:
        TrainingError: if the loss is not finite.
    """
    losses = history(log).get("loss", [])
    if not losses or not all(np.isfinite(losses)):
        # Resuming from such weights would be useless, so the same command starts from the beginning.
        backup.unlink(missing_ok=True)
        raise TrainingError(f"The loss is not finite after {len(losses)} epochs: {losses[-3:]}. Lower learning_rate.")
    return int(read_epochs(log)[-1]["epoch"])


def _log_validation(log: Path, values: Mapping[str, float]) -> None:
    """Add the values of a validation after the last epoch to the log of that epoch."""
    last = read_epochs(log)[-1]
    validated = {f"val_{plain_name(name)}": float(value) for name, value in values.items()}
    append_json(log, {**last, "values": {**last["values"], **validated}})


def _write(
    folder: Path,
    network: Any,
    inference: Any,
    log: Path,
    settings: TrainingSettings,
    every: int,
    steps: int,
    count: int,
    best: BestWeights,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    # With deep supervision, the model for inference is another one, which shares the weights.
    (network if len(network.outputs) == 1 else inference).save(folder / MODEL)
    summary: list[str] = []
    inference.summary(print_fn=lambda line, **_: summary.append(line))
    values = history(log)
    write_json(
        folder / TRAINING,
        {
            "history": values,
            "settings": settings.model_dump(mode="json"),
            "mesh": settings.mesh,
            "layout": settings.layout,
            "resolution": network.input_shape[1],
            "learning_rate": settings.learning_rate,
            "seconds": elapsed(log),
            "epochs": len(values["loss"]),
            "steps_per_epoch": steps,
            "best": {"epoch": best.epoch + 1, "dice": best.dice},
            "validation_every": every,
            "parameters": int(inference.count_params()),
            "processes": count,
            "peak_bytes": _peak_bytes(network, count),
            "framework": f"keras {keras.__version__}, tensorflow {tf.__version__}",
            "summary": "\n".join(summary),
        },
    )


def _peak_bytes(network: Any, count: int) -> dict[str, int]:
    """The peak memory of this process and of its accelerators in bytes, by name."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    name = "training process" if count == 1 else f"training, process 0 of {count}"
    found = {name: 1024 * peak}
    for gpu in tf.config.list_logical_devices("GPU"):
        found[f"training, {gpu.name}"] = int(tf.config.experimental.get_memory_info(gpu.name)["peak"])
    return found
