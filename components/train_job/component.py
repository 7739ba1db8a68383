"""The component `train_job`."""

from typing import Annotated

from kfp import dsl

from components.base import component
from components.train.settings import TrainingSettings


@component
def train_job(
    dataset: dsl.Input[dsl.Dataset],
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    job: str,
    settings: Annotated[dict, TrainingSettings],
    network_version: str = "",
    imported_network: dsl.Input[dsl.Model] = None,
):
    """Train a network in a job of several pods, whose devices are one mesh.

    Args:
        dataset: The TFDS data set, from the step preprocess.
        model: The Keras file, the training history, and logs for TensorBoard.
        metrics: The best validation Dice, its epoch, the last loss and the seconds of a step, for the user interface.
        job: The JSON of the job (kind, pods, image, resources, volumes); the compiler writes it from the cluster file.
        network_version: The digest of a network in a file, from the step fingerprint, which only KFP's cache reads.
        imported_network: The file that network names, where KFP has imported it.
    """
    from components.resume import step
    from components.train.settings import files_of, imported_by
    from components.train.train import METRICS

    step(
        "train_job",
        "components.train_job.train_job:train_in_job",
        inputs={"dataset": dataset},
        outputs={"model": model},
        settings={"job": job, **settings},
        folders={f"{name}_files": files_of(settings[name]) for name in ("network", "loss")},
        imported={"network_files": imported_network},
        code=[path for name in ("network", "loss") for path in imported_by(settings[name])],
        scratch=True,
        scratch_url=True,
        stored=("model",),
        remote=("dataset",),
    )
    for name in METRICS:
        metrics.log_metric(name, model.metadata[name])
