"""A model as a graph of layers on a mesh: everything that is determined once, before any of its steps runs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import tree

from keras_spatial import keras_private
from keras_spatial.distribution import SpatialParallel
from keras_spatial.engine.trace import Trace
from keras_spatial.layout import AXIS_NAMES, ShardLength, ShardsTooShort
from keras_spatial.rules.composite import forget_graphs
from keras_spatial.rules.table import UnsupportedLayer
from keras_spatial.rules.walk import (
    explain,
    functional_graph,
    lower_graph,
    lower_operation,
    refuse_masked,
    uses_channels_first,
)

# Each failed attempt makes the shards of one axis longer; a network has a handful of scales at most.
_MOST_ATTEMPTS = 100
# Stands in for image sizes that a model leaves open, during the search for layers that cannot be partitioned.
_OPEN_SIZE = 128


class Network:
    """A model's graph for each mode, and the lengths of shards for each shape; both are found once.

    Args:
        model: a Keras model.
        distribution: the mesh and layout.
        replicate: whether layers without a rule run on whole tensors.
    """

    def __init__(self, model: keras.Model, distribution: SpatialParallel, *, replicate: bool = False):
        self.model, self.distribution, self.replicate = model, distribution, replicate
        self._graphs: dict[Any, keras.Model] = {}
        self._lengths: dict[Any, Mapping[str, ShardLength]] = {}
        # Set as soon as they are known: the specifications of the inputs, and of the outputs for the checked size.
        self.input_specs: Any = None
        self.output_specs: Any = None

    def graph(self, inputs: Any, training: bool) -> keras.Model:
        """The model as a functional model.

        Args:
            inputs: anything with `shape` and `dtype`, in the structure of the model's inputs.
            training: whether layers run in training mode.
        """
        if (cls := keras_private.calls_otherwise(self.model)) is not None:
            raise UnsupportedLayer(f"{cls} overrides `__call__`, which no graph of layers shows: override `call`.")
        graph = keras_private.functional_part(self.model)
        if graph is not None:
            return graph
        # The graph contains sizes as numbers, so there is one for each shape.
        key = (training, signature_of(inputs))
        if key not in self._graphs:
            self._graphs[key] = functional_graph(self.model, inputs, training)
        return self._graphs[key]

    def forget_graphs(self) -> None:
        """Forget the traced graphs, because attributes that a layer's Python code reads may have changed."""
        self._graphs.clear()
        forget_graphs()

    def trace(self, inputs: Any, training: bool, **options: Any) -> Trace:
        """A trace for inputs of some shapes."""
        return Trace(
            self.distribution,
            training,
            channels_first=uses_channels_first(self.graph(inputs, training)),
            lower=lower_operation,
            replicate=self.replicate,
            **options,
        )

    def forward(self, trace: Trace, inputs: Any, on_mesh: Any) -> Any:
        """The model's outputs, given its inputs as `SpatialTensor`s in the model's structure."""
        outputs = lower_graph(self.graph(inputs, trace.training), trace, on_mesh)
        refuse_masked(trace, outputs)
        return outputs

    def shard_lengths(self, inputs: Any, training: bool) -> Mapping[str, ShardLength]:
        """How long the shards must be so that every layer's output falls into equal shards."""
        key = (training, signature_of(inputs))
        if key not in self._lengths:
            self._lengths[key] = self._planned(inputs, training, None).shard_lengths
        return self._lengths[key]

    def takes_blocks(self, shape: Sequence[int], dtype: str) -> bool:
        """Whether images of a shape, without the batch, fall into equal shards that hold no padding."""
        lengths = self.shard_lengths(tf.TensorSpec((self.distribution.shards("batch"), *shape), dtype), True)
        for axis, size in zip(AXIS_NAMES[1:], shape[:-1], strict=False):
            shards = self.distribution.shards(axis)
            if shards > 1 and lengths.get(axis, ShardLength()).length_for(size, shards) * shards != size:
                return False
        return True

    def outputs_for_planning(self) -> tuple[Trace, Any] | None:
        """The model's outputs on a fresh trace for planning; None if their shapes are not known yet."""
        if self.output_specs is None:
            return None
        trace = Trace(self.distribution, True, planning=True, lower=lower_operation, replicate=self.replicate)
        return trace, tree.map_structure(trace.input, self.output_specs)

    def output_specs_for(self, inputs: Any, training: bool) -> Any:
        """Shapes and dtypes of the outputs for inputs of some shapes."""
        trace = self.trace(inputs, training, planning=True, shard_lengths=self.shard_lengths(inputs, training))
        return tree.map_structure(_spec, self.forward(trace, inputs, tree.map_structure(trace.input, inputs)))

    def check(self, inputs: Any = None) -> list[tuple[str, str, int, str]]:
        """Find all layers that cannot be partitioned, before there are data.

        Args:
            inputs: anything with `shape` and `dtype`, in the structure of the model's inputs; sizes may be None.

        Returns:
            The layers that run on whole tensors: name, class, bytes on every device for one batch, reason.

        Raises:
            UnsupportedLayer: a `ValueError` that names all of them.
        """
        self.input_specs = inputs
        specs = tree.map_structure(self._closed, inputs)
        problems, replicated = [], []
        for training in (False, True):
            found: list = []
            replicated += self._planned(specs, training, found).replicated
            problems += found
        if problems:
            raise UnsupportedLayer(explain(problems))
        return list(dict.fromkeys(replicated))

    def _closed(self, x: Any) -> tf.TensorSpec:
        """The specification with a number in place of each open size."""
        batch = x.shape[0] or max(2, self.distribution.shards("batch"))
        sizes = [_OPEN_SIZE if size is None else size for size in x.shape[1:]]
        return tf.TensorSpec((batch, *sizes), x.dtype)

    def _planned(self, inputs: Any, training: bool, problems: list | None) -> Trace:
        """Walk the model with ever longer shards until all of its strides divide them."""
        lengths: dict[str, ShardLength] = {}
        for _ in range(_MOST_ATTEMPTS):
            if problems is not None:
                problems.clear()
            trace = self.trace(inputs, training, planning=True, shard_lengths=lengths, problems=problems)
            try:
                outputs = self.forward(trace, inputs, tree.map_structure(trace.input, inputs))
                self.output_specs = self.output_specs or tree.map_structure(_spec, outputs)
                return trace
            except ShardsTooShort as needed:
                longer = lengths.get(needed.axis, ShardLength()).including(needed)
                if longer == lengths.get(needed.axis):
                    name = needed.axis.split("#")[0]
                    raise ValueError(
                        f"Axis '{name}' cannot be cut into {self.distribution.shards(name)} equal shards for model "
                        f"'{keras_private.name_of(self.model)}': its layers change the size in ways that no shard "
                        "length fits. Leave that axis whole in the layout. Received: inputs of shape "
                        f"{tree.map_structure(lambda x: tuple(x.shape), inputs)}"
                    ) from needed
                lengths = {**lengths, needed.axis: longer}
        raise ValueError(
            f"No shards were found that fit model '{keras_private.name_of(self.model)}' after {_MOST_ATTEMPTS} "
            f"attempts: {lengths}"
        )


def _spec(x: Any) -> tf.TensorSpec:
    return tf.TensorSpec(x.shape, x.dtype)


def signature_of(inputs: Any) -> str:
    """The key of a graph: the structure of the inputs with its names, shapes and dtypes."""
    return repr(tree.map_structure(lambda x: (tuple(x.shape), keras.backend.standardize_dtype(x.dtype)), inputs))


def readable_replicated(replicated: list[tuple[str, str, int, str]]) -> str:
    """A text that lists the layers that run on whole tensors, and what that costs."""
    lines = [
        f"  - '{name}' ({cls}): {size / 1e6:.3g} MB of inputs and outputs ({reason})"
        for name, cls, size, reason in dict.fromkeys(replicated)
    ]
    total = math.fsum(size for *_, size, _ in replicated)
    return (
        f"These layers have no rule and run on whole tensors on every device, {total / 1e6:.3g} MB in all for one "
        "batch of the checked size:\n" + "\n".join(lines)
    )
