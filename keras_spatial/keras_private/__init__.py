"""Every private name of Keras that this package uses, in one place.

Keras moves these between releases. `tests/test_keras_private.py` says for each what it is for and what to do when it is
gone; everything else in the package uses only what `keras` exports.
"""

from keras.src.backend.common.symbolic_scope import in_symbolic_scope
from keras.src.distribution.distribution_lib import Distribution
from keras.src.losses.loss import squeeze_or_expand_to_same_rank
from keras.src.metrics.reduction_metrics import reduce_to_samplewise_values
from keras.src.models.functional import Functional
from keras.src.ops import core, einops, image, linalg, math, nn, numpy
from keras.src.saving.keras_saveable import KerasSaveable
from keras.src.trainers.data_adapters.data_adapter_utils import unpack_x_y_sample_weight

from keras_spatial.keras_private.classes import (
    defining_class,
    defining_method,
    overrides,
)
from keras_spatial.keras_private.layers import (
    all_layers,
    autocast_dtype,
    called_with,
    calls_otherwise,
    changed_in,
    computes_no_mask,
    computes_own_mask,
    is_autocast,
    mask_of,
    merge_function,
    raw_kernel,
    set_mask,
    takes_training,
    to_value_range,
)
from keras_spatial.keras_private.models import (
    copy_compilation,
    functional_part,
    input_structure,
    is_validation_of_fit,
    name_of,
    nodes_of,
    output_structure,
    run_graph,
    shared_copy,
    start_with_epoch,
    watch_functional_models,
    without_optionals,
)
from keras_spatial.keras_private.objective import (
    Call,
    bare_copy,
    build_metric,
    build_state,
    compilation,
    compiled_copy,
    function_arguments,
    has_state,
    is_mean_of_function,
    loss_calls,
    loss_dtype,
    metric_calls,
    update_loss_trackers,
    weight_regularization,
    wrapped_function,
)
from keras_spatial.keras_private.symbolic import (
    SymbolicState,
    symbolic_calls,
    symbolic_variables,
)

__all__ = [
    "Call",
    "Distribution",
    "Functional",
    "KerasSaveable",
    "SymbolicState",
    "all_layers",
    "autocast_dtype",
    "bare_copy",
    "build_metric",
    "build_state",
    "called_with",
    "calls_otherwise",
    "changed_in",
    "compilation",
    "compiled_copy",
    "computes_no_mask",
    "computes_own_mask",
    "copy_compilation",
    "core",
    "defining_class",
    "defining_method",
    "einops",
    "function_arguments",
    "functional_part",
    "has_state",
    "image",
    "in_symbolic_scope",
    "input_structure",
    "is_autocast",
    "is_mean_of_function",
    "is_validation_of_fit",
    "linalg",
    "loss_calls",
    "loss_dtype",
    "mask_of",
    "math",
    "merge_function",
    "metric_calls",
    "name_of",
    "nn",
    "nodes_of",
    "numpy",
    "output_structure",
    "overrides",
    "raw_kernel",
    "reduce_to_samplewise_values",
    "run_graph",
    "set_mask",
    "shared_copy",
    "squeeze_or_expand_to_same_rank",
    "start_with_epoch",
    "symbolic_calls",
    "symbolic_variables",
    "takes_training",
    "to_value_range",
    "unpack_x_y_sample_weight",
    "update_loss_trackers",
    "watch_functional_models",
    "weight_regularization",
    "without_optionals",
    "wrapped_function",
]
