"""The weights of the best validation, which are the model, and the end of a training that gets no better."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from components import console, owner
from components.files import read_json, sealed, unsealed, write_json
from datasets.sources import digest
from keras_spatial import processes

FACTS = "best.json"
_WEIGHTS = "best-{}.weights.h5"


class BestWeights(keras.callbacks.Callback):
    """Keeps the weights of the validation with the highest mean Dice, also over restarts of the training.

    Where the optimizer keeps a moving average of the weights, that is what is validated and kept. Unlike Keras's
    `SwapEMAWeights`, which adds and subtracts, the weights are afterwards what they were, bit for bit.

    All processes use it, because all must end at the same epoch; the first one reads and writes.

    Args:
        folder: gets `best-EPOCH.weights.h5`, and `best.json` with its epoch, its Dice and the digest of the weights. It
            outlives a restart. What is damaged in it is set aside by name, and the best of the rest of the training
            counts.
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
        found = _read(folder) if job.is_first else None
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
            epoch: the epoch that was validated, from 0.
            values: the values of the validation by name, without `val_`.
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
        """Give the model the best weights; of the first process, which writes it.

        Raises:
            ValueError: if the file of the weights is not what was written.
        """
        if self.epoch >= 0:
            path = self._folder / _WEIGHTS.format(self.epoch)
            if _read(self._folder) is None:
                raise ValueError(f"{path}: expected the best weights of this training. Received: a damaged file")
            self.model.load_weights(path)

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
        path = self._folder / _WEIGHTS.format(self.epoch)
        part = path.with_name(f".part-{path.name}")
        self.model.save_weights(part, overwrite=True)
        part.replace(path)
        # Last: what it describes is complete.
        write_json(self._folder / FACTS, sealed({"epoch": self.epoch, "dice": self.dice, "weights": digest(path)}))
        for other in self._folder.glob(_WEIGHTS.format("*")):
            if other != path:
                other.unlink()


def _read(folder: Path) -> dict[str, Any] | None:
    """The epoch and the Dice of the best weights in a folder; None if there are none, or they are damaged."""
    facts = folder / FACTS
    try:
        found = unsealed(read_json(facts))
        if digest(folder / _WEIGHTS.format(found["epoch"])) == found["weights"]:
            return found
        reason = "the weights that it describes have changed"
    except (OSError, RecursionError, ValueError) as error:
        if not facts.exists():
            return None
        reason = f"{type(error).__name__}: {error}"
    aside = owner.set_aside(facts)
    console.note(
        "train", f"{facts} cannot be used ({reason}) and was renamed to {aside.name}: the best weights are lost"
    )
    return None


def forget(folder: Path) -> None:
    """Remove what an earlier training has kept."""
    for path in (folder / FACTS, *folder.glob(_WEIGHTS.format("*"))):
        path.unlink(missing_ok=True)


def plain_name(name: str) -> str:
    """A metric's name without that of its output, which Keras puts before it where a model has several.

    Only the first output of a network has metrics of Dice.
    """
    before, found, metric = name.partition("dice_")
    return f"{'val_' if before.startswith('val_') else ''}{found}{metric}" if found else name
