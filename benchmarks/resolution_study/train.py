"""Train and score one arm. The network is traced once and serves all seeds, with fresh weights each time."""

import time
from pathlib import Path

import keras_spatial as ks  # First: it turns oneDNN on before TensorFlow starts.

# isort: split
import keras
import numpy as np

from benchmarks.resolution_study.data import Cases, batches
from benchmarks.resolution_study.settings import Arm, Settings
from components.train.schedule import rate
from keras_spatial.evaluation import evaluate_case, summarise
from keras_spatial.inference import Patches, segment
from keras_spatial.volumes import read_volume

# Made before TensorFlow does any work, because the number of logical CPU devices is fixed from then on.
DISTRIBUTION = ks.SpatialParallel(ks.device_mesh("rows:2, columns:2"), "x:rows, y:columns")


def build(arm: Arm, settings: Settings) -> keras.Model:
    """The compiled network of an arm, partitioned over the mesh if the settings say so."""
    network = _network(arm, settings)
    if arm.patch is None and arm.resolution >= settings.partition_from:
        network = ks.partition(network, DISTRIBUTION)
    network.compile(
        optimizer=keras.optimizers.Adam(settings.learning_rate),
        loss=ks.losses.DiceCrossentropy(class_weights=(1, 4, 8), crossentropy_weight=0.5, dice_weight=0.5),
        jit_compile=False,
    )
    return network


def train(model: keras.Model, cases: Cases, arm: Arm, settings: Settings, seed: int) -> dict[str, float]:
    """Train from fresh weights with this seed.

    Returns:
        The seconds of the training, the median seconds per update, and the mean loss of the last tenth of the updates.
    """
    keras.utils.set_random_seed(seed)
    model.set_weights(_network(arm, settings).get_weights())
    for variable in model.optimizer.variables:
        if variable is not model.optimizer._learning_rate:
            variable.assign(np.zeros(variable.shape))
    losses, times = [], []
    stream = batches(cases, arm, seed)
    for update in range(settings.updates):
        started = time.perf_counter()
        model.optimizer.learning_rate = rate(settings.learning_rate, update / settings.updates, 0.05)
        loss = float(np.asarray(model.train_on_batch(*next(stream))))
        if not np.isfinite(loss):
            raise FloatingPointError(f"{arm.name}, seed {seed}: the loss is {loss} after {update + 1} updates")
        losses.append(loss)
        times.append(time.perf_counter() - started)
        if (update + 1) % max(settings.updates // 5, 1) == 0:
            print(f"  {arm.name} seed {seed}: update {update + 1}/{settings.updates}, loss {loss:.4f}", flush=True)
    return {
        "seconds": sum(times),
        "seconds_per_update": float(np.median(times)),
        "loss": float(np.mean(losses[-max(len(losses) // 10, 1) :])),
    }


def score(model: keras.Model, folder: Path, numbers: list[int], arm: Arm) -> dict:
    """The LiTS metrics of the test cases, on their own grids."""
    patches = None if arm.patch is None else Patches(grid=(arm.resolution, arm.resolution, arm.resolution))
    found = []
    started = time.perf_counter()
    for number in numbers:
        labels = segment(model, folder / f"volume-{number}.nii.gz", patches=patches).labels
        truth = read_volume(folder / f"segmentation-{number}.nii.gz")
        found.append(evaluate_case(labels, truth.array, truth.spacing, case=str(number)))
    return {
        "summary": summarise(found).as_dict(),
        "cases": [{"case": c.case, "liver": c.liver.dice, "lesion": c.lesion.dice} for c in found],
        "lesions": [[x.diameter, x.detected] for c in found for x in c.lesions.reference],
        "scoring_seconds": time.perf_counter() - started,
    }


def _network(arm: Arm, settings: Settings) -> keras.Model:
    shape = (*(arm.input_size,) * 3, 1)
    return ks.models.UNet3D(shape, classes=3, filters=settings.filters, levels=settings.levels, dropout=0.0)
