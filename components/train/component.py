"""The component `train`."""

from typing import Annotated

from kfp import dsl

from components.base import component
from components.train.settings import LocalTrainingSettings


@component
def train(
    dataset: dsl.Input[dsl.Dataset],
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    settings: Annotated[dict, LocalTrainingSettings],
    network_version: str = "",
    imported_network: dsl.Input[dsl.Model] = None,
):
    """Train a network whose images are split over a mesh of devices.

    Args:
        dataset: The TFDS data set, from the step preprocess.
        model: The Keras file, the training history, and logs for TensorBoard.
        metrics: The best validation Dice, its epoch, the last loss and the seconds of a step, for the user interface.
        network_version: The digest of a network in a file, from the step fingerprint, which only KFP's cache reads.
        imported_network: The file that network names, where KFP has imported it.
    """
    from components.resume import step
    from components.train.settings import LOGS, files_of, imported_by
    from components.train.train import METRICS

    step(
        "train",
        "components.train.train:train_model",
        inputs={"dataset": dataset},
        outputs={"model": model},
        settings=settings,
        folders={f"{name}_files": files_of(settings[name]) for name in ("network", "loss")},
        imported={"network_files": imported_network},
        code=[path for name in ("network", "loss") for path in imported_by(settings[name])],
        scratch=True,
        stored=("model",),
        remote=("dataset",),
        live={"model": LOGS},
    )
    for name in METRICS:
        metrics.log_metric(name, model.metadata[name])
