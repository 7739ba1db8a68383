"""Losses and metrics of a partitioned model, with Keras's own semantics, as partial sums over the shards.

`losses` and `metrics` find for each loss and metric a way to compute it without gathering predictions, or refuse it by
name; `locality` proves that a function treats each voxel independently; `sums` computes this package's own losses and
metrics; `lower` combines the losses and metrics of a compiled model.
"""

from keras_spatial.objective.lower import Objective, check_compiled, lower_objective
from keras_spatial.objective.refusal import UnsupportedObjective

__all__ = ["Objective", "UnsupportedObjective", "check_compiled", "lower_objective"]
