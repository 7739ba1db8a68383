"""Every public name of `keras.activations`, as the activation of a convolution."""

import keras
from conformance.table.statuses import Case, Equal, Status, not_concerned
from keras import layers as L

ELEMENTWISE = """celu elu exponential gelu hard_shrink hard_sigmoid hard_silu hard_tanh leaky_relu linear log_sigmoid
    mish relu relu6 selu sigmoid silu soft_shrink softplus softsign sparse_plus sparse_sigmoid squareplus tanh
    tanh_shrink threshold"""
ALONG_CHANNELS = "glu log_softmax softmax sparsemax"


def _of_convolution(name: str) -> Equal:
    def call(x):
        function = getattr(keras.activations, name)
        if name == "threshold":
            return L.Conv2D(4, 3, padding="same", activation=lambda t: function(t, 0.1, -0.5))(x)
        return L.Conv2D(4, 3, padding="same", activation=function)(x)

    return Equal({"convolution": Case(call)})


ACTIVATIONS: dict[str, Status] = {
    name: _of_convolution(name) for name in (ELEMENTWISE + " " + ALONG_CHANNELS).split() if name != "glu"
}
ACTIVATIONS["glu"] = Equal({"layer": Case(lambda x: L.Activation("glu")(L.Conv2D(4, 3, padding="same")(x)))})
ACTIVATIONS |= not_concerned("finds or describes activations", "deserialize get serialize")
