"""What a model knows of its mesh, beside what Keras knows of it."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from keras_spatial import keras_private
from keras_spatial.distribution import SpatialParallel
from keras_spatial.inputs import as_inputs
from keras_spatial.keras_private import unpack_x_y_sample_weight
from keras_spatial.network import Network

if TYPE_CHECKING:
    from keras_spatial.model import Model


# Processes whose input pipelines differ show it at once, or as soon as a shuffle has been drawn from twice.
_COMPARED_BATCHES = 2


@dataclass
class MeshState:
    """What a model knows of its mesh. Keras does not track it, so its graphs add no layers to the model."""

    distribution: SpatialParallel | None
    network: Network | None = None
    plain_class: type | None = None  # That of the model that `ks.partition` was given.
    synchronized: bool = False
    skip: int = 0  # Steps of `fit` that a restored run has done already: their batches are read and dropped.
    recompute: dict[str, int] = field(default_factory=dict)  # See `ks.recompute`.
    functions: dict[bool, Any] = field(default_factory=dict)  # For calls outside Keras's loops.
    call_losses: list = field(default_factory=list)  # What layers added to the loss in the last such call.
    compared: dict[str, int] = field(default_factory=dict)  # By mode, how many batches were compared over processes.
    warned: set[str] = field(default_factory=set)

    def synchronize(self, model: "Model") -> None:
        """Before anything is computed: processes must hold the same model, and get the first one's weights."""
        if not self.synchronized:
            model._runtime.synchronize(model)
        self.synchronized = True

    def synchronize_early(self, model: "Model") -> None:
        """As `synchronize`, before there are data; not for a model that its first data will build."""
        if all(layer.built for layer in keras_private.all_layers(model)):
            self.synchronize(model)

    def prepare(self, model: "Model", data: Any, mode: str) -> None:
        """Before a step: a model that is built by its data is built, and then made the same in all processes. The first
        batches are compared over the processes, which would otherwise train on a mixture without a word.

        Args:
            model: whose state this is.
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
            # TensorFlow traces a step that makes variables twice, and keeps both graphs.
            with model._runtime.scope():
                optimizer.build(model.trainable_variables)
        if model.compiled and y is not None:
            model._runtime.before_step(lambda: keras_private.build_state(model, x, y, training))
