"""Train and score one arm. The network is traced once and serves all seeds, with fresh weights each time."""

import os
import time
from pathlib import Path

import keras_spatial as ks  # First: it turns oneDNN on before TensorFlow starts.

# isort: split
import keras
import numpy as np

from benchmarks.resolution_study.data import Cases, batches, window
from benchmarks.resolution_study.settings import RECIPES, Arm, Settings
from components.train.network import inference_model
from components.train.schedule import rate
from keras_spatial.evaluation import evaluate_case, summarise
from keras_spatial.inference import Patches, segment
from keras_spatial.volumes import read_volume

# Made before TensorFlow does any work, because that fixes the number of logical CPU devices.
DISTRIBUTION = ks.SpatialParallel(ks.device_mesh("rows:2, columns:2"), "x:rows, y:columns")


def build(arm: Arm, settings: Settings) -> tuple[keras.Model, keras.Model]:
    """The compiled network of an arm, partitioned over the mesh if the settings say so, and the model for inference.
    With deep supervision the latter is another model, which shares the weights.
    """
    recipe = RECIPES[arm.recipe]
    network = predictor = _network(arm, settings)
    outputs = len(network.outputs)
    if outputs > 1:
        predictor = inference_model(network)
    if arm.patch is None and arm.resolution >= settings.partition_from:
        network = ks.partition(network, DISTRIBUTION)
        predictor = network if outputs == 1 else predictor
    loss = ks.losses.DiceCrossentropy(
        recipe.class_weights, crossentropy_weight=recipe.crossentropy_weight, dice_weight=recipe.dice_weight
    )
    # The coarser outputs weigh 1/2, 1/4, ... of the finest one.
    weights = [2.0**-number for number in range(outputs)]
    network.compile(
        optimizer=keras.optimizers.Adam(settings.learning_rate),
        loss=[loss] * outputs,
        loss_weights=[weight / sum(weights) for weight in weights],
        jit_compile=False,
    )
    return network, predictor


def train(model: keras.Model, cases: Cases, arm: Arm, settings: Settings, seed: int) -> dict[str, float]:
    """Train from fresh weights with this seed.

    Returns:
        The seconds of the training, the processor's seconds per update after the first one, which builds the graph, and
        the mean loss of the last tenth of the updates.
    """
    keras.utils.set_random_seed(seed)
    model.set_weights(_network(arm, settings).get_weights())
    for variable in model.optimizer.variables:
        if variable is not model.optimizer._learning_rate:
            variable.assign(np.zeros(variable.shape))
    losses: list[float] = []
    outputs = len(model.outputs)
    started, used = time.perf_counter(), 0.0
    stream = batches(cases, arm, seed)
    for update in range(settings.updates):
        if update == 1:
            used = _processor_seconds()
        model.optimizer.learning_rate = rate(settings.learning_rate, update / settings.updates, 0.05)
        images, labels = next(stream)
        values = model.train_on_batch(images, labels if outputs == 1 else [labels] * outputs, return_dict=True)
        loss = float(np.asarray(values["loss"]))
        if not np.isfinite(loss):
            raise FloatingPointError(f"{arm.name}, seed {seed}: the loss is {loss} after {update + 1} updates")
        losses.append(loss)
        if (update + 1) % max(settings.updates // 5, 1) == 0:
            print(f"  {arm.name} seed {seed}: update {update + 1}/{settings.updates}, loss {loss:.4f}", flush=True)
    return {
        "seconds": time.perf_counter() - started,
        "cpu_per_update": (_processor_seconds() - used) / max(settings.updates - 1, 1),
        "loss": float(np.mean(losses[-max(len(losses) // 10, 1) :])),
    }


def score(model: keras.Model, folder: Path, numbers: list[int], arm: Arm) -> dict:
    """The LiTS metrics of the test cases, on their own grids."""
    patches = None if arm.patch is None else Patches(grid=(arm.resolution, arm.resolution, arm.resolution))
    found = []
    started = time.perf_counter()
    for number in numbers:
        labels = segment(model, folder / f"volume-{number}.nii.gz", patches=patches, intensities=window(arm)).labels
        truth = read_volume(folder / f"segmentation-{number}.nii.gz")
        found.append(evaluate_case(labels, truth.array, truth.spacing, case=str(number)))
    return {
        "summary": summarise(found).as_dict(),
        "cases": [{"case": c.case, "liver": c.liver.dice, "lesion": c.lesion.dice} for c in found],
        "lesions": [[x.diameter, x.detected] for c in found for x in c.lesions.reference],
        "scoring_seconds": time.perf_counter() - started,
    }


def _network(arm: Arm, settings: Settings) -> keras.Model:
    recipe, shape = RECIPES[arm.recipe], (*(arm.input_size,) * 3, 1)
    size = {"filters": settings.filters, "levels": settings.levels}
    if recipe.network == "unet":
        return ks.models.UNet3D(shape, 3, dropout=0.0, normalization=recipe.normalization, **size)
    blocks = [1] * settings.levels
    return ks.models.ResidualUNet3D(shape, 3, blocks=blocks, deep_supervision=recipe.deep_supervision, **size)


def _processor_seconds() -> float:
    """The processor time of this process so far. On a shared machine, the clock would measure the work of others,
    too.
    """
    times = os.times()
    return times.user + times.system
