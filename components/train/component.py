"""The component `train`."""

from kfp import dsl

from components.base import component


@component
def train(
    dataset: dsl.Input[dsl.Dataset],
    model: dsl.Output[dsl.Model],
    mesh: str = "rows:2, columns:2",
    layout: str = "x:rows, y:columns",
    filters: int = 16,
    levels: int = 4,
    dropout: float = 0.0,
    epochs: int = 60,
    batch_size: int = 1,
    learning_rate: float = 0.003,
    minutes: float = 0.0,
    seed: int = 0,
    processes: int = 1,
    backup_steps: int = 50,
    slices: int = 1,
):
    """Train a 3D U-Net whose images are split over a mesh of devices.

    Args:
        dataset: TFDS data set, of the step preprocess.
        model: Keras file, training history, and logs for TensorBoard.
        mesh: Axes of the device mesh and their sizes; GPUs if there are any, else logical CPU devices.
        layout: Which image axis is split over which mesh axis.
        filters: Filters of the first level; they double from level to level.
        levels: Levels of the U-Net.
        dropout: Dropout rate.
        epochs: Epochs at most.
        batch_size: Volumes per step.
        learning_rate: Highest learning rate of the schedule.
        minutes: Training ends after this time; 0 for no limit.
        seed: Seed of weights, shuffling and dropout.
        processes: Processes of one machine that share the mesh.
        backup_steps: Steps between two backups of the whole state, from which a killed training goes on.
        slices: Validation cases whose slices TensorBoard shows.
    """
    from components.resume import step

    settings = {
        "mesh": mesh,
        "layout": layout,
        "filters": filters,
        "levels": levels,
        "dropout": dropout,
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "minutes": minutes,
        "seed": seed,
        "processes": processes,
        "backup_steps": backup_steps,
        "slices": slices,
    }
    step(
        "train",
        "components.train.train:train_model",
        inputs={"dataset": dataset},
        outputs={"model": model},
        settings=settings,
        scratch=True,
    )
