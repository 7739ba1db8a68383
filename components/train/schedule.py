"""The learning rate of a training that ends after a number of epochs or minutes, whichever comes first."""

import math
import time

import keras
import tensorflow as tf

from keras_spatial import processes
from keras_spatial.runtimes.collective import broadcast_variables

# How many steps pass before other processes get the time of the first one again, which costs a message.
_STEPS_PER_LOOK = 20


class Schedule(keras.callbacks.Callback):
    """Sets the learning rate: a linear warm-up and then a decay, over the epochs or the minutes, whichever end first.

    So a training that ends after some minutes on a slow machine still goes through the whole schedule. The clock starts
    after the first step, which builds the graph. With `minutes`, the number of steps depends on the machine, so results
    are reproducible only without it. All processes of a job use the clock of the first one, because their learning
    rates and their last steps must be the same.

    Args:
        peak: the highest learning rate.
        steps: the number of steps of the whole training.
        minutes: the number of minutes after which the training ends; None for no limit.
        before: the seconds that earlier, interrupted parts of the training took.
        warmup: the share of the training in which the learning rate rises.
        fall: "cosine", "poly" or "constant", see `rate`.
    """

    def __init__(
        self,
        peak: float,
        steps: int,
        minutes: float | None = None,
        before: float = 0.0,
        warmup: float = 0.05,
        fall: str = "cosine",
    ):
        super().__init__()
        self.peak, self.steps, self.minutes, self.before = peak, steps, minutes, before
        self.warmup, self.fall = warmup, fall
        self._started: float | None = None
        self._seconds = before
        self._step = 0

    @property
    def progress(self) -> float:
        """The share of the training that is done, from 0 to 1."""
        share = self._step / self.steps
        if self.minutes is not None:
            share = max(share, self._seconds / (60 * self.minutes))
        return min(share, 1.0)

    def _look_at_clock(self) -> None:
        if self.minutes is None or self._started is None:
            return
        job = processes.current()
        seconds = self.before + time.monotonic() - self._started
        if job.count == 1:
            self._seconds = seconds
        elif self._step % _STEPS_PER_LOOK == 0:
            clock = tf.Variable(tf.constant(seconds, tf.float64))
            broadcast_variables([clock], job)
            self._seconds = float(clock.numpy())

    def on_epoch_begin(self, epoch, logs=None):
        # A resumed training begins at a later epoch.
        self._step = max(self._step, epoch * self.params["steps"])

    def on_train_batch_begin(self, batch, logs=None):
        self.model.optimizer.learning_rate = rate(self.peak, self.progress, self.warmup, self.fall)

    def on_train_batch_end(self, batch, logs=None):
        self._step += 1
        if self._started is None:
            self._started = time.monotonic()
        self._look_at_clock()
        if self.progress >= 1.0:
            self.model.stop_training = True


def rate(peak: float, progress: float, warmup: float, fall: str = "cosine") -> float:
    """The learning rate at a point of the training.

    Args:
        peak: the highest learning rate.
        progress: the share of the training that is done, from 0 to 1.
        warmup: the share of the training in which the learning rate rises linearly to the peak.
        fall: how it falls from there: "cosine" along half a cosine to 1 % of the peak, "poly" with the power 0.9 of the
            remaining share (Chen et al., arXiv 1606.00915, as in nnU-Net), "constant" not at all.
    """
    if progress < warmup:
        return peak * max(progress / warmup, 0.01)
    over = (progress - warmup) / (1 - warmup)
    if fall == "poly":
        return peak * max(1 - over, 0.0) ** 0.9
    if fall == "constant":
        return peak
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * over)))
