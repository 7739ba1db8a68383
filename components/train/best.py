"""The weights of the best validation, which are the model, and the end of a training that gets no better."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from components import console
from components.files import read_json, write_json
from keras_spatial import processes

WEIGHTS, FACTS = "best.weights.h5", "best.json"


class BestWeights(keras.callbacks.Callback):
    """Keeps the weights of the validation with the highest mean Dice, also over restarts of the training.

    Where the optimizer keeps a moving average of the weights, that is what is validated and kept. Unlike Keras's
    `SwapEMAWeights`, which adds and subtracts, the weights are afterwards what they were, bit for bit.

    All processes use it, for all must end at the same epoch; the first one reads and writes.

    Args:
        folder: gets `best.weights.h5`, and `best.json` with its epoch and Dice. It outlives a restart.
        patience: validations without a better one after which training ends; 0 for none.
        every: epochs between two validations.
    """

    def __init__(self, folder: Path, patience: int, every: int):
        super().__init__()
        self._folder, self._patience, self._every = folder, patience, every
        self._epoch = 0
        self.validated = -1
        """The last epoch that was validated, from 0; -1 for none."""
        self.epoch, self.dice = -1, -math.inf
        job = processes.current()
        found = read_json(folder / FACTS) if job.is_first and (folder / FACTS).is_file() else None
        text = f"{found['epoch']} {found['dice']!r}" if found else ""
        text = job.exchange("best validation", text)[0]
        if text:
            self.epoch, self.dice = int(text.split()[0]), float(text.split()[1])
            self.validated = self.epoch

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._epoch = epoch

    def on_test_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        self._exchange_averages()

    def on_test_end(self, logs: Mapping[str, Any] | None = None) -> None:
        self.consider(self._epoch, logs or {})
        self._exchange_averages()

    def consider(self, epoch: int, values: Mapping[str, Any]) -> None:
        """Keep the model's weights if they are the best so far; end the training if it has been getting no better.

        Args:
            epoch: that was validated, from 0.
            values: The values of the validation by name, without `val_`.
        """
        dice = [float(value) for name, value in values.items() if plain_name(name).startswith("dice_")]
        job = processes.current()
        # The first one's counts: if another rounded otherwise, it would end at another epoch.
        mean = float(job.exchange("mean Dice of the validation", repr(sum(dice) / len(dice) if dice else -math.inf))[0])
        self.validated = epoch
        if mean > self.dice:
            self.epoch, self.dice = epoch, mean
            if job.is_first:
                self._write()
        elif self._patience and epoch - self.epoch >= self._patience * self._every:
            self.model.stop_training = True
            if job.is_first:
                console.note(
                    "train",
                    f"the training ends, for no validation gave a better Dice than that of epoch {self.epoch + 1} "
                    f"({console.figure(self.dice)})",
                )

    def restore(self) -> None:
        """Give the model the best weights; of the first process, which writes it."""
        if self.epoch >= 0:
            self.model.load_weights(self._folder / WEIGHTS)

    def _exchange_averages(self) -> None:
        """Exchange the weights and their moving averages."""
        optimizer = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)  # Of a scaled loss.
        if not optimizer.use_ema:
            return
        pairs = zip(self.model.trainable_variables, optimizer._model_variables_moving_average, strict=True)
        for variable, average in pairs:
            value = np.array(keras.ops.convert_to_numpy(variable))  # A copy: it may be the variable's own memory.
            variable.assign(average)
            average.assign(value)

    def _write(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        part = self._folder / f".part-{WEIGHTS}"
        self.model.save_weights(part, overwrite=True)
        part.replace(self._folder / WEIGHTS)
        # Last: what it describes is complete.
        write_json(self._folder / FACTS, {"epoch": self.epoch, "dice": self.dice})


def forget(folder: Path) -> None:
    """Remove what an earlier training has kept."""
    for name in (FACTS, WEIGHTS):
        (folder / name).unlink(missing_ok=True)


def plain_name(name: str) -> str:
    """A metric's name without that of its output, which Keras puts before it where a model has several.

    Only the first output of a network has metrics of Dice.
    """
    before, found, metric = name.partition("dice_")
    return f"{'val_' if before.startswith('val_') else ''}{found}{metric}" if found else name
