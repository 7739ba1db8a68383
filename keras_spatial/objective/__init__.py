"""Losses and metrics of a partitioned model, by Keras's own semantics, as partial sums over the shards.

`losses` and `metrics` find for each the way in which it can be computed without gathering predictions, or refuse it by
name; `locality` proves that a function treats every voxel by itself; `sums` adds up this package's own losses and
metrics; `lower` puts a compiled model's losses and metrics together.
"""

from keras_spatial.objective.lower import Objective, check_compiled, lower_objective, update_metric
from keras_spatial.objective.refusal import UnsupportedObjective

__all__ = ["Objective", "UnsupportedObjective", "check_compiled", "lower_objective", "update_metric"]
