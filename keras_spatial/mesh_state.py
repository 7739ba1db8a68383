"""What a model knows about its mesh, besides what Keras knows."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from keras import tree

from keras_spatial import keras_private
from keras_spatial.distribution import SpatialParallel
from keras_spatial.inputs import as_inputs
from keras_spatial.keras_private import unpack_x_y_sample_weight
from keras_spatial.network import Network
from keras_spatial.own_steps import computed_whole
from keras_spatial.runtimes.blocks import as_tensor

if TYPE_CHECKING:
    from keras_spatial.model import Model


# Input pipelines that differ between processes do so in the first batch, or in the second one after a shuffle.
_COMPARED_BATCHES = 2


@dataclass
class MeshState:
    """What a model knows about its mesh. Keras does not track it, so its graphs add no layers to the model."""

    distribution: SpatialParallel | None
    network: Network | None = None
    plain_class: type | None = None  # The class of the model that `ks.partition` was given.
    synchronized: bool = False
    skip: int = 0  # Steps of `fit` that a restored run has done already: their batches are read and dropped.
    recompute: dict[str, int] = field(default_factory=dict)  # See `ks.recompute`.
    functions: dict[bool, Any] = field(default_factory=dict)  # Traced calls outside Keras's loops, by `training`.
    call_losses: list = field(default_factory=list)  # The losses that layers added in the last such call.
    compared: dict[str, int] = field(default_factory=dict)  # By mode, how many batches of a call were compared.
    warned: set[str] = field(default_factory=set)

    def synchronize(self, model: "Model") -> None:
        """Check that all processes hold the same model, and give them the first one's weights. Runs once."""
        if not self.synchronized:
            model._runtime.synchronize(model)
        self.synchronized = True

    def synchronize_early(self, model: "Model") -> None:
        """Synchronize before there are data, unless the model is still to be built by its first data."""
        if all(layer.built for layer in keras_private.all_layers(model)):
            self.synchronize(model)

    def begin(self, mode: str) -> None:
        """Let the first batches of a new call of `fit`, `evaluate` or `predict` be compared: its data may be others."""
        self.compared.pop(mode, None)
        if mode == "fit":
            self.compared.pop("evaluate", None)  # Its validation data are the same in all of its epochs.

    def prepare(self, model: "Model", data: Any, mode: str) -> None:
        """Prepare a step: build the model from its first data, synchronize it, and compare the first batches.

        Processes with different batches would otherwise train on a mixture of them without any error.

        Args:
            model: the model whose state this is.
            data: the batch.
            mode: "fit", "evaluate" or "predict".
        """
        training = mode == "fit"
        x, y, _ = unpack_x_y_sample_weight(data)
        if not self.synchronized:
            model._network.graph(as_inputs(model, x), training)
            self.synchronize(model)
        number = self.compared.get(mode, 0) + 1
        if number <= _COMPARED_BATCHES:
            model._runtime.agree_on_batch(f"batch {number} of {mode}", data)
            self.compared[mode] = number
        optimizer = getattr(model, "optimizer", None)
        if training and optimizer is not None and not optimizer.built and model.trainable_variables:
            # TensorFlow would trace a step that makes variables twice, and keep both graphs.
            with model._runtime.scope():
                optimizer.build(model.trainable_variables)
        if mode != "predict" and model.compiled and y is not None and not keras_private.has_state(model):
            own_step = computed_whole(model, "train_step" if training else "test_step")
            model._runtime.before_step(lambda: self._build_state(model, x, y, training), own_step)

    def _build_state(self, model: "Model", x: Any, y: Any, training: bool) -> None:
        with model._runtime.on_host():
            inputs, labels = as_inputs(model, x), tree.map_structure(as_tensor, y)
        keras_private.build_state(model, inputs, labels, training)
