"""Keep the weights of the best validation, which become the model, and end a training that no longer improves."""

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
    """Keeps the weights of the validation with the highest mean Dice, also across restarts of the training.

    If the optimizer keeps a moving average of the weights, the average is validated and kept. Keras's `SwapEMAWeights`
    adds and subtracts to exchange weights and averages; here the weights are the same afterwards, to the last bit.

    All processes use it, because all must end at the same epoch; the first one reads and writes.

    Args:
        folder: the folder for `best-EPOCH.weights.h5`, and for `best.json` with the epoch, the Dice and the digest of
            the weights. It is kept across restarts. Damaged files in it are renamed, and then only the rest of the
            training counts.
        patience: the training ends after this many validations without a better one; 0 means never.
        every: the number of epochs between two validations.

    Attributes:
        validated: the last epoch that was validated, from 0; -1 for none.
        epoch: the epoch of the best validation, from 0; -1 for none.
        dice: the mean Dice of the best validation.
    """

    def __init__(self, folder: Path, patience: int, every: int):
        super().__init__()
        self._folder, self._patience, self._every = folder, patience, every
        self._epoch = 0
        self.validated = -1
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
        """Keep the model's weights if they are the best so far, and end the training if it no longer improves.

        Args:
            epoch: the epoch that was validated, from 0.
            values: the values of the validation by name, without the prefix `val_`.
        """
        dice = [float(value) for name, value in values.items() if plain_name(name).startswith("dice_")]
        job = processes.current()
        # The value of the first process counts, because a value that is rounded differently could end the training in
        # another epoch.
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
                    f"the training ends, because no validation gave a better Dice than that of epoch {self.epoch + 1} "
                    f"({console.figure(self.dice)})",
                )

    def restore(self) -> None:
        """Load the best weights into the model. Only the first process, which writes the model, calls it.

        Raises:
            ValueError: if the file of the weights is missing or has changed.
        """
        if self.epoch >= 0:
            path = self._folder / _WEIGHTS.format(self.epoch)
            if _read(self._folder) is None:
                raise ValueError(f"{path}: expected the best weights of this training. Received: a damaged file")
            self.model.load_weights(path)

    def _exchange_averages(self) -> None:
        """Exchange the weights and their moving averages."""
        # The optimizer that scales the loss for float16 has the user's one inside.
        optimizer = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
        if not optimizer.use_ema:
            return
        pairs = zip(self.model.trainable_variables, optimizer._model_variables_moving_average, strict=True)
        for variable, average in pairs:
            # This must be a copy, because the result of Keras may share its memory with the variable.
            value = np.array(keras.ops.convert_to_numpy(variable))
            variable.assign(average)
            average.assign(value)

    def _write(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / _WEIGHTS.format(self.epoch)
        part = path.with_name(f".part-{path.name}")
        self.model.save_weights(part, overwrite=True)
        part.replace(path)
        # The description is written last, when the weights are complete.
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
    """Remove the files that an earlier training has kept in a folder."""
    for path in (folder / FACTS, *folder.glob(_WEIGHTS.format("*"))):
        path.unlink(missing_ok=True)


def plain_name(name: str) -> str:
    """The name of a metric without the name of its output, which Keras adds for models with several outputs.

    Only the first output of a network has a Dice.
    """
    before, found, metric = name.partition("dice_")
    return f"{'val_' if before.startswith('val_') else ''}{found}{metric}" if found else name
