"""Everything that trains a model: optimizers and their schedules, callbacks, the arguments of `compile`, `fit` and
the like.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from conformance.table.statuses import Equal, NotConcerned, Refused, Status, not_concerned
from keras import constraints, initializers, regularizers
from keras import optimizers as O

S = O.schedules

OPTIMIZERS: dict[str, Status] = {
    name: Equal({"steps": make})
    for name, make in {
        "Adadelta": lambda: O.Adadelta(0.1),
        "Adafactor": lambda: O.Adafactor(0.01),
        "Adagrad": lambda: O.Adagrad(0.1),
        "Adam": lambda: O.Adam(0.01, amsgrad=True, global_clipnorm=0.5),
        "AdamW": lambda: O.AdamW(0.01, weight_decay=0.1),
        "Adamax": lambda: O.Adamax(0.01, clipvalue=0.05),
        "Ftrl": lambda: O.Ftrl(0.1),
        "Lamb": lambda: O.Lamb(0.01),
        "Lion": lambda: O.Lion(0.01),
        "LossScaleOptimizer": lambda: O.LossScaleOptimizer(O.SGD(0.1)),
        "MultiOptimizer": lambda: O.MultiOptimizer(O.OptimizerMap(O.SGD(0.1), {"conv.*": O.Adam(0.01)})),
        "Muon": lambda: O.Muon(0.01),
        "Nadam": lambda: O.Nadam(0.01, clipnorm=0.1),
        "OptimizerMap": lambda: O.MultiOptimizer(O.OptimizerMap(O.Adam(0.1))),
        "RMSprop": lambda: O.RMSprop(0.01, centered=True, momentum=0.5, use_ema=True),
        "SGD": lambda: O.SGD(0.1, momentum=0.9, nesterov=True, gradient_accumulation_steps=2),
        "ScheduleFreeAdamW": lambda: O.ScheduleFreeAdamW(0.01),
    }.items()
}
OPTIMIZERS |= not_concerned("is the base of other classes, and computes nothing by itself", "Optimizer")
OPTIMIZERS |= not_concerned("finds or describes optimizers", "deserialize get serialize")

SCHEDULES: dict[str, Status] = {
    name: Equal({"steps": lambda make=make: O.SGD(make())})
    for name, make in {
        "CosineDecay": lambda: S.CosineDecay(0.1, 4, warmup_target=0.2, warmup_steps=1),
        "CosineDecayRestarts": lambda: S.CosineDecayRestarts(0.1, 2),
        "ExponentialDecay": lambda: S.ExponentialDecay(0.1, 2, 0.5),
        "InverseTimeDecay": lambda: S.InverseTimeDecay(0.1, 2, 0.5),
        "PiecewiseConstantDecay": lambda: S.PiecewiseConstantDecay([1], [0.1, 0.01]),
        "PolynomialDecay": lambda: S.PolynomialDecay(0.1, 4),
    }.items()
}
SCHEDULES |= not_concerned("is the base of other classes, and computes nothing by itself", "LearningRateSchedule")
SCHEDULES |= not_concerned("describes schedules", "deserialize serialize")


@dataclass(frozen=True)
class Fit:
    """A run of `fit`.

    Attributes:
        arguments: the arguments of `fit`; those with state are made by a function.
        compile: the arguments of `compile` besides the optimizer and the loss.
        dataset: whether the data are a `tf.data.Dataset` of batches. A `keras.utils.PyDataset` is not tested
            separately, because Keras makes batches of both.
        outputs: the number of outputs of the model.
    """

    arguments: dict[str, Any] = field(default_factory=dict)
    compile: dict[str, Any] = field(default_factory=dict)
    dataset: bool = False
    outputs: int = 1


def _fit(**arguments: Any) -> Equal:
    return Equal({"fit": Fit(arguments)})


FIT: dict[str, Status] = {
    "x": Equal({"array": Fit(), "dataset": Fit(dataset=True)}),
    "y": Equal({"array": Fit()}),
    "batch_size": _fit(batch_size=2),
    "epochs": _fit(epochs=2),
    "verbose": NotConcerned("is what Keras prints"),
    "callbacks": NotConcerned("has a table of its own, that of `keras.callbacks`"),
    "validation_split": _fit(validation_split=0.4),
    "validation_data": _fit(validation_data=lambda x, y: (x[:2], y[:2]), validation_batch_size=1),
    "shuffle": Equal({"off": Fit({"shuffle": False}), "on": Fit({"shuffle": True, "batch_size": 2})}),
    "class_weight": Equal({"classifier": Fit({"class_weight": {0: 1.0, 1: 2.0, 2: 0.5}})}),
    "sample_weight": _fit(sample_weight=lambda x, y: np.linspace(0.0, 2.0, len(x))),
    "initial_epoch": _fit(initial_epoch=1, epochs=2),
    "steps_per_epoch": Equal({"dataset": Fit({"steps_per_epoch": 2}, dataset=True)}),
    "validation_steps": _fit(validation_data=lambda x, y: (x, y), validation_steps=1, validation_batch_size=2),
    "validation_batch_size": _fit(validation_data=lambda x, y: (x, y), validation_batch_size=2),
    "validation_freq": _fit(validation_data=lambda x, y: (x, y), validation_freq=2, epochs=2),
}

COMPILE: dict[str, Status] = {
    "optimizer": NotConcerned("has a table of its own, that of `keras.optimizers`"),
    "loss": NotConcerned("has a table of its own, that of `keras.losses`"),
    "loss_weights": Equal({"two outputs": Fit(compile={"loss_weights": [0.3, 2.0]}, outputs=2)}),
    "metrics": Equal({"one": Fit(compile={"metrics": ["accuracy"]})}),
    "weighted_metrics": Equal(
        {"one": Fit({"sample_weight": lambda x, y: np.linspace(0.5, 2.0, len(x))}, {"weighted_metrics": ["accuracy"]})}
    ),
    "run_eagerly": Refused(Fit(compile={"run_eagerly": True}), "a partitioned model runs as a graph", "run_eagerly"),
    "steps_per_execution": Equal({"two": Fit({"batch_size": 2}, {"steps_per_execution": 2})}),
    "jit_compile": Refused(
        Fit(compile={"jit_compile": True}), "XLA compiles no function that spans devices", "jit_compile"
    ),
    "auto_scale_loss": Equal({"off": Fit(compile={"auto_scale_loss": False})}),
}

EVALUATE: dict[str, Status] = {
    **{name: Equal({"evaluate": {name: value}}) for name, value in {"batch_size": 2, "return_dict": True}.items()},
    "sample_weight": Equal({"evaluate": {"sample_weight": np.linspace(0.0, 2.0, 5)}}),
    "steps": Equal({"evaluate": {"steps": 2, "batch_size": 2}}),
    "callbacks": NotConcerned("has a table of its own, that of `keras.callbacks`"),
    **not_concerned("is what Keras prints", "verbose"),
    **not_concerned("is what every case gives", "x y"),
    "kwargs": NotConcerned("takes nothing that is documented"),
}

PREDICT: dict[str, Status] = {
    **{name: Equal({"predict": {name: value}}) for name, value in {"batch_size": 2, "steps": 1}.items()},
    "x": Equal({"predict": {}}),
    "verbose": NotConcerned("is what Keras prints"),
    "callbacks": NotConcerned("has a table of its own, that of `keras.callbacks`"),
}

CALLBACKS: dict[str, Status] = {
    name: Equal({"fit": make}, note=note)
    for name, (make, note) in {
        "BackupAndRestore": ("BackupAndRestore", ""),
        "CSVLogger": ("CSVLogger", ""),
        "EarlyStopping": ("EarlyStopping", ""),
        "History": ("History", ""),
        "LambdaCallback": ("LambdaCallback", ""),
        "LearningRateScheduler": ("LearningRateScheduler", ""),
        "ModelCheckpoint": ("ModelCheckpoint", ""),
        "ProgbarLogger": ("ProgbarLogger", ""),
        "ReduceLROnPlateau": ("ReduceLROnPlateau", ""),
        "SwapEMAWeights": ("SwapEMAWeights", ""),
        "TensorBoard": ("TensorBoard", "`keras_spatial.tensorboard.SliceImages` adds slices of volumes"),
        "TerminateOnNaN": ("TerminateOnNaN", ""),
    }.items()
}
CALLBACKS |= {
    "OrbaxCheckpoint": NotConcerned("needs orbax-checkpoint, which is for JAX"),
    "RemoteMonitor": NotConcerned("sends logs to a server, and touches neither model nor data"),
    "Callback": NotConcerned("is the base of the others, and does nothing by itself"),
    "CallbackList": NotConcerned("is what `fit` holds callbacks in: every case passes through one"),
}


def _kernels(makers: dict[str, Callable]) -> dict[str, Status]:
    return {name: Equal({"convolution": make}) for name, make in makers.items()}


REGULARIZERS: dict[str, Status] = _kernels(
    {
        "L1": lambda: {"kernel_regularizer": regularizers.L1(0.01)},
        "L1L2": lambda: {"kernel_regularizer": regularizers.L1L2(0.01, 0.02), "bias_regularizer": "l2"},
        "L2": lambda: {"kernel_regularizer": regularizers.L2(0.01), "activity_regularizer": regularizers.L2(0.1)},
        "OrthogonalRegularizer": lambda: {"dense": {"kernel_regularizer": regularizers.OrthogonalRegularizer(0.01)}},
    }
)
REGULARIZERS |= not_concerned("is the base of other classes, and computes nothing by itself", "Regularizer")
REGULARIZERS |= not_concerned("finds or describes regularizers", "deserialize get serialize")

CONSTRAINTS: dict[str, Status] = _kernels(
    {
        "MaxNorm": lambda: {"kernel_constraint": constraints.MaxNorm(0.3, axis=[0, 1, 2])},
        "MinMaxNorm": lambda: {"kernel_constraint": constraints.MinMaxNorm(0.1, 0.3, axis=[0, 1, 2])},
        "NonNeg": lambda: {"kernel_constraint": constraints.NonNeg()},
        "UnitNorm": lambda: {"kernel_constraint": constraints.UnitNorm(axis=[0, 1, 2])},
    }
)
CONSTRAINTS |= not_concerned("is the base of other classes, and computes nothing by itself", "Constraint")
CONSTRAINTS |= not_concerned("finds or describes constraints", "deserialize get serialize")

INITIALIZERS: dict[str, Status] = _kernels(
    {
        name: lambda name=name: {"kernel_initializer": getattr(initializers, name)(seed=3)}
        for name in [
            "GlorotNormal",
            "GlorotUniform",
            "HeNormal",
            "HeUniform",
            "LecunNormal",
            "LecunUniform",
            "Orthogonal",
            "RandomNormal",
            "RandomUniform",
            "TruncatedNormal",
            "VarianceScaling",
        ]
    }
    | {
        "Constant": lambda: {"kernel_initializer": initializers.Constant(0.05)},
        "Identity": lambda: {"dense": {"kernel_initializer": initializers.Identity()}},
        "Ones": lambda: {"bias_initializer": initializers.Ones()},
        "Zeros": lambda: {"bias_initializer": initializers.Zeros()},
    }
)
INITIALIZERS |= {
    "Initializer": NotConcerned("is the base of other classes, and computes nothing by itself"),
    "STFT": NotConcerned("makes the kernel of a spectrogram: see `STFTSpectrogram`"),
}
INITIALIZERS |= not_concerned("finds or describes initializers", "deserialize get serialize")

DTYPES: dict[str, Status] = {
    "DTypePolicy": Equal(
        {name: name for name in ["float32", "float64", "float16", "bfloat16", "mixed_float16", "mixed_bfloat16"]}
    ),
    "FloatDTypePolicy": NotConcerned("is the name of `DTypePolicy` in files of Keras 3.0"),
    "DTypePolicyMap": Equal({"map": "map"}),
    **not_concerned(
        "is set by `Model.quantize`, which makes layers of integers for inference on one device",
        "AWQDTypePolicy GPTQDTypePolicy Int4DTypePolicy QuantizedDTypePolicy QuantizedFloat8DTypePolicy",
    ),
    **not_concerned("finds or describes policies", "deserialize get serialize"),
}
