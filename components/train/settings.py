"""What decides a training, as one value that travels to every process of it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

MODEL, TRAINING, LOGS = "model.keras", "training.json", "logs"
"""Names in the folder of a trained model: the Keras file, the history, and TensorBoard's folder."""


class TrainingError(RuntimeError):
    """The training gave no usable model."""


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of a training.

    Attributes:
        mesh: such as "rows:2, columns:2", over the devices of all processes.
        layout: such as "x:rows, y:columns".
        filters: of the first level.
        levels: of the U-Net.
        dropout: rate.
        epochs: at most.
        batch_size: volumes per step.
        learning_rate: the highest; it rises over the first 5 % of the training and falls to 1 %.
        minutes: the training ends after this time even if epochs are left; 0 for no limit.
        seed: of the weights, the order of the cases and the dropout.
        backup_steps: steps between two backups of the whole state.
        slices: validation cases whose slices TensorBoard shows.
    """

    mesh: str
    layout: str
    filters: int
    levels: int
    dropout: float
    epochs: int
    batch_size: int
    learning_rate: float
    minutes: float
    seed: int
    backup_steps: int
    slices: int

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "TrainingSettings":
        """The settings of a mapping that may hold other values too.

        Raises:
            KeyError: if one is missing.
        """
        return cls(**{field.name: values[field.name] for field in fields(cls)})
