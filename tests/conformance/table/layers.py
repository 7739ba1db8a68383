"""Every public name of `keras.layers`, and the layers for volumes that Keras does not have."""

from collections.abc import Callable, Mapping

from conformance.table import layers_1d_3d, layers_2d, layers_random
from conformance.table.layers_first import CHANNELS_FIRST
from conformance.table.statuses import (
    IMAGE_1D,
    IMAGE_2D,
    IMAGE_3D,
    Case,
    Equal,
    NotConcerned,
    Refused,
    Replicated,
    Status,
    not_concerned,
)
from keras import layers as L
from keras import ops as O

Makers = Mapping[str, Mapping[str, Callable]]


def _cases(makers: Mapping[str, Callable], group: str, shape: tuple[int, ...], training: bool) -> dict[str, Case]:
    suffix = " in training" if training else ""
    return {
        f"{group} {name}{suffix}": Case(lambda x, make=make: make()(x), shape, training, **_limits(group, name))
        for name, make in makers.items()
    }


# TensorFlow resizes in float32, and has no gradient of an antialiased resize in float64.
_SINGLE = ("resizing", "bilinear", "bicubic", "lanczos", "random-rotation", "random-translation", "random-zoom")
_SINGLE += ("random-shear", "random-perspective", "random-crop-wide")


_SINGLE_GRADIENTS = ("resizing-average", "lanczos", "grouped")
_SINGLE_POOLING = ("max-pool", "average-pool", "adaptive")


def _limits(group: str, name: str) -> dict:
    if "double" in name or any(part in name for part in _SINGLE_GRADIENTS):
        return {"dtypes": ("float32",)}
    if group == "3D" and name.startswith(_SINGLE_POOLING):
        return {"dtypes": ("float32",)}  # TensorFlow pools volumes in no other precision that is compared here.
    limits = {"often": not name.startswith("random")}
    return {**limits, "precision": 1e-4} if any(part in name for part in _SINGLE) else limits


def _together(*groups: tuple[Makers, str, tuple[int, ...], bool]) -> dict[str, dict[str, Case]]:
    result: dict[str, dict[str, Case]] = {}
    for makers, group, shape, training in groups:
        for layer, cases in makers.items():
            result.setdefault(layer, {}).update(_cases(cases, group, shape, training))
    return result


CASES = _together(
    (layers_1d_3d.INFERENCE_1D, "1D", IMAGE_1D, False),
    (layers_2d.INFERENCE, "2D", IMAGE_2D, False),
    (layers_2d.TRAINING, "2D", IMAGE_2D, True),
    (layers_random.RANDOM_2D, "2D", IMAGE_2D, True),
    (layers_1d_3d.INFERENCE_3D, "3D", IMAGE_3D, False),
    (layers_1d_3d.TRAINING_3D, "3D", IMAGE_3D, True),
    (layers_random.RANDOM_3D, "3D", IMAGE_3D, True),
)
for layer, case in CHANNELS_FIRST.items():
    CASES.setdefault(layer, {}).update(case)

NOTES = {"Conv3D": "not `groups`: TensorFlow has no grouped convolution of volumes on CPUs"}
NOISE = "in training other random numbers than Keras's, of the same distribution (tests/rules/test_noise.py)"
NOISY = {
    "AlphaDropout": lambda: L.AlphaDropout(0.3, seed=4),
    "Dropout": lambda: L.Dropout(0.3, seed=4),
    "GaussianDropout": lambda: L.GaussianDropout(0.3, seed=4),
    "GaussianNoise": lambda: L.GaussianNoise(0.5, seed=4),
    "SpatialDropout2D": lambda: L.SpatialDropout2D(0.3, seed=4),
}

MERGING = {
    "add": Equal({"2D images": Case(lambda x: L.add([x, x[:, :1], x]))}),
    "average": Equal({"2D images": Case(lambda x: L.average([x, L.ReLU()(x)]))}),
    "concatenate": Equal({"2D images": Case(lambda x: L.concatenate([x, L.ReLU()(x)], axis=2))}),
    "dot": Equal({"2D images": Case(lambda x: L.dot([x, L.ReLU()(x)], axes=2))}),
    "maximum": Equal({"2D images": Case(lambda x: L.maximum([x, -x]))}),
    "minimum": Equal({"2D images": Case(lambda x: L.minimum([x, -x]))}),
    "multiply": Equal({"2D images": Case(lambda x: L.multiply([x, L.ReLU()(x)]))}),
    "subtract": Equal({"2D images": Case(lambda x: L.subtract([x, L.ReLU()(x)]))}),
}


def _tokens(x):
    """The voxels of each case as tokens, as in vision transformers."""
    return L.Reshape((-1, x.shape[-1]))(x[:, ::4, ::4])


ATTENTION = {
    "AdditiveAttention": Equal({"2D tokens": Case(lambda x: L.AdditiveAttention()([_tokens(x), _tokens(x * 0.5)]))}),
    "Attention": Equal({"2D tokens": Case(lambda x: L.Attention(use_scale=True)([_tokens(x), _tokens(x * 0.5)]))}),
    "GroupQueryAttention": Equal({"2D tokens": Case(lambda x: L.GroupQueryAttention(4, 4, 2)(_tokens(x), _tokens(x)))}),
    "MultiHeadAttention": Equal(
        {
            "2D tokens": Case(lambda x: L.MultiHeadAttention(2, 4)(_tokens(x), _tokens(x))),
            "2D rows": Case(lambda x: L.MultiHeadAttention(2, 4, attention_axes=2)(x[:, :5], x[:, :5])),
            "2D causal": Case(lambda x: L.MultiHeadAttention(2, 4)(_tokens(x), _tokens(x), use_causal_mask=True)),
        }
    ),
}

MASKED = (
    'its mask where a layer, or the loss and metrics at an output, would use it, with `unsupported="replicate"` too, '
    "but for masks within one layer or nested model that is replicated"
)
COUNTED = {
    "RandomPosterization": Equal(
        {"2D in training": Case(lambda x: L.RandomPosterization(3, value_range=(-4, 4), seed=3)(x), training=True)}
    ),
    "ActivityRegularization": Equal({"2D": Case(lambda x: L.ActivityRegularization(l2=0.1)(x))}),
    "Discretization": Equal({"2D bins": Case(lambda x: L.Discretization([-1.0, 0.0, 1.0])(x))}),
    "Embedding": Equal(
        {"2D classes": Case(lambda x: L.Embedding(9, 4)(_classes(x[..., 0])))},
        {"mask": Refused(Case(lambda x: L.Embedding(9, 4, mask_zero=True)(_classes(x[..., 0]))), MASKED, "mask")},
    ),
    "ReversibleEmbedding": Equal({"2D classes": Case(lambda x: L.ReversibleEmbedding(9, 4)(_classes(x[:, :, 0, 0])))}),
    "STFTSpectrogram": Equal(
        {"1D": Case(lambda x: L.STFTSpectrogram(frame_length=8, frame_step=4, fft_length=8)(x), IMAGE_1D)}
    ),
    "Masking": Equal(
        {"1D ending in a convolution": Case(lambda x: L.Conv1D(4, 3)(_masked(x)), IMAGE_1D)},
        {"output": Refused(Case(lambda x: L.Dense(4)(_masked(x)), IMAGE_1D), MASKED, "mask")},
    ),
}


def _masked(x):
    """About half of the steps are zero and masked."""
    return L.Masking()(O.relu(x[..., :1]))


def _classes(x):
    return O.cast(O.floor(O.clip(O.abs(3.0 * x), 0.0, 8.0)), "int32")


def _replicated(reason: str, shape=IMAGE_2D, training: bool = False, /, **calls) -> dict[str, Replicated]:
    options: dict = {"precision": 1e-4, "often": False}
    if "spectrum" in reason:
        options["dtypes"] = ("float32",)  # In float64 Keras itself multiplies with a matrix in float32.
    return {
        name: Replicated({f"{len(shape) - 1}D": Case(call, shape, training, **options)}, reason)
        for name, call in calls.items()
    }


RECURRENT = "every time step waits for the one before"
REPLICATED = (
    _replicated(
        RECURRENT,
        IMAGE_1D,
        Bidirectional=lambda x: L.Bidirectional(L.SimpleRNN(4))(x),
        GRU=lambda x: L.GRU(4, return_sequences=True, reset_after=False)(x),
        LSTM=lambda x: L.LSTM(4, return_sequences=True)(x),
        RNN=lambda x: L.RNN(L.SimpleRNNCell(4))(x),
        SimpleRNN=lambda x: L.SimpleRNN(4)(x),
        SimpleRNNCell=lambda x: L.RNN(L.SimpleRNNCell(4), return_sequences=True)(x),
        GRUCell=lambda x: L.RNN(L.GRUCell(4))(x),
        LSTMCell=lambda x: L.RNN(L.LSTMCell(4))(x),
        StackedRNNCells=lambda x: L.RNN(L.StackedRNNCells([L.GRUCell(4), L.GRUCell(3)]))(x),
        ConvLSTM1D=lambda x: L.ConvLSTM1D(2, 3)(O.stack([x, x * 0.5], 1)),
    )
    | _replicated(
        "is for lists of categories, and no rule is worth their while",
        CategoryEncoding=lambda x: L.CategoryEncoding(9, output_mode="one_hot")(_classes(x[..., :1])),
    )
    | _replicated(RECURRENT, IMAGE_2D, ConvLSTM2D=lambda x: L.ConvLSTM2D(2, 3)(O.stack([x, x * 0.5], 1)))
    | _replicated(RECURRENT, IMAGE_3D, ConvLSTM3D=lambda x: L.ConvLSTM3D(2, 3)(O.stack([x, x * 0.5], 1)))
    | _replicated(
        "a spectrum needs the whole signal",
        IMAGE_1D,
        MelSpectrogram=lambda x: L.MelSpectrogram(8, 4, num_mel_bins=4, max_freq=8000.0)(x[..., 0]),
    )
    | _replicated(
        "a histogram of each channel decides on every voxel",
        ContrastLimitedAdaptiveHistogramEqualization=lambda x: L.ContrastLimitedAdaptiveHistogramEqualization(
            (-4, 4), tile_grid_size=(3, 3)
        )(x),
    )
    | _replicated(
        "no rule for what it draws and mixes",
        IMAGE_2D,
        True,
        CutMix=lambda x: L.CutMix(seed=3)(x),
        MixUp=lambda x: L.MixUp(seed=3)(x),
        RandAugment=lambda x: L.RandAugment((-4, 4), seed=3)(x),
        RandomColorJitter=lambda x: L.RandomColorJitter((-4, 4), 0.3, 0.3, 0.3, 0.3, seed=3)(x),
        RandomElasticTransform=lambda x: L.RandomElasticTransform(1.0, 1.0, value_range=(-4, 4), seed=3)(x),
        RandomErasing=lambda x: L.RandomErasing(1.0, value_range=(-4, 4), seed=3)(x),
        RandomGaussianBlur=lambda x: L.RandomGaussianBlur(1.0, value_range=(-4, 4), seed=3)(x),
    )
)

NOT_CONCERNED = (
    {
        "Equalization": NotConcerned(
            "Keras makes no functional model of it on TensorFlow", Case(lambda x: L.Equalization((-4, 4), bins=16)(x))
        )
    }
    | not_concerned("is for text, and no image passes it", "Hashing HashedCrossing IntegerLookup StringLookup")
    | not_concerned("is for text, and no image passes it", "TextVectorization")
    | not_concerned("gives other results in every call, whatever its seed: there is nothing to compare", "AugMix")
    | not_concerned("is for other backends than TensorFlow", "FlaxLayer JaxLayer TorchModuleWrapper")
    | not_concerned("makes a model's input, as every case here does", "Input InputLayer")
    | not_concerned("describes layers, and computes nothing", "InputSpec serialize deserialize")
    | not_concerned("is the base of other classes, and computes nothing by itself", "Layer Wrapper")
    | not_concerned("pads lists of boxes, not images", "MaxNumBoundingBoxes")
    | not_concerned("runs layers over data before a model sees them; in a model, put the layers there", "Pipeline")
    | not_concerned("holds a graph of TensorFlow in a file, which has no gradient with respect to weights", "TFSMLayer")
)

LAYERS: dict[str, Status] = {
    **{name: Equal(cases, note=NOTES.get(name, "")) for name, cases in CASES.items()},
    **{name: Equal({"2D": Case(lambda x, make=make: make()(x))}, note=NOISE) for name, make in NOISY.items()},
    "SpatialDropout1D": Equal({"1D": Case(lambda x: L.SpatialDropout1D(0.3)(x), IMAGE_1D)}, note=NOISE),
    "SpatialDropout3D": Equal({"3D": Case(lambda x: L.SpatialDropout3D(0.3)(x), IMAGE_3D)}, note=NOISE),
    **MERGING,
    **ATTENTION,
    **COUNTED,
    **REPLICATED,
    **NOT_CONCERNED,
}
