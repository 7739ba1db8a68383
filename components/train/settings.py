"""The settings of a training: one value, which every process of it gets, and the files of the user's own code."""

import ast
import importlib.util
import re
from pathlib import Path
from typing import Any, Literal, Self

import pydantic
from pydantic import Field

from components import pure
from components.settings import LocalSettings, MeshSettings, binding

MODEL, TRAINING, LOGS = "model.keras", "training.json", "logs"
"""The names in the folder of a trained model: the Keras file, the history, and TensorBoard's folder."""

READ = ("train", "validation")
"""The splits that a training reads."""

NETWORKS = {
    "unet": "UNet3D",
    "residual_unet": "ResidualUNet3D",
    "vnet": "VNet3D",
    "attention_unet": "AttentionUNet3D",
}
"""The names of networks, and of their functions in `keras_spatial.models`."""
LOSSES = {"dice_crossentropy": "DiceCrossentropy", "crossentropy": "Crossentropy", "soft_dice": "SoftDice"}
"""The names of losses, and of their classes in `keras_spatial.losses`."""
_CODE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_OF_NAMED = ("filters", "levels", "dropout")


def files_of(reference: str) -> str:
    """The path of the `.keras` file, or of the user's module or package, to which a network or a loss refers; "" for a
    name of this project. The key of a step contains the digest of these files."""
    if reference.endswith(".keras") or ":" not in reference:
        return reference if reference.endswith(".keras") else ""
    found = importlib.util.find_spec(re.split(r"[.:]", reference)[0])
    if found is None:
        return ""
    return next(iter(found.submodule_search_locations or []), found.origin or "")


def imported_by(reference: str) -> list[str]:
    """The Python files beside the user's module or package that it imports, directly or indirectly.

    They determine a network as much as the module itself, so the key of a step contains their digests.
    """
    main = Path(files_of(reference))
    folder = main.parent
    # The files beside an installed package are not the user's.
    if ":" not in reference or main == Path() or any(folder.glob("*.dist-info")):
        return []
    found: dict[Path, None] = {}
    waiting = _sources(main)
    while waiting:
        path = waiting.pop()
        if path not in found:
            found[path] = None
            waiting += [p for name in _imported(path) for p in _sources(folder / name)]
            waiting += [p for name in _imported(path) for p in _sources(folder / f"{name}.py")]
    return sorted(str(path) for path in found if path != main and main not in path.parents)


def _sources(path: Path) -> list[Path]:
    """The Python files at a path: one file, or those of a package; none if nothing is there."""
    if path.is_dir():
        return [p for p in pure.load("_paths").walk(path, hidden=False) if p.suffix == ".py"]
    return [path] if path.is_file() else []


def _imported(path: Path) -> set[str]:
    """The top-level modules that a file imports by name, anywhere in it."""
    try:
        nodes = list(ast.walk(ast.parse(path.read_bytes())))
    except (OSError, SyntaxError, ValueError):
        # Python reports the error when it imports the file.
        return set()
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    return {name.split(".")[0] for name in names}


class TrainingError(RuntimeError):
    """A training cannot be started with these settings, or has not given a usable model."""


class TrainingSettings(MeshSettings):
    """The settings of a training in one process or several."""

    network: str = Field(
        "unet",
        description="The network: unet, residual_unet, vnet, attention_unet, module:function of your own code that "
        "makes a Keras model, or a .keras file to fine-tune.",
    )
    network_options: dict[str, Any] = Field(
        {}, description="Further arguments of the function that makes the network, by name."
    )
    filters: int = Field(
        16, ge=1, le=1024, description="The number of filters of the first level; it doubles from level to level."
    )
    levels: int = Field(4, ge=1, le=8, description="The number of levels, for a network that has a name here.")
    dropout: float = Field(0.0, ge=0, lt=1, description="The dropout rate, for a network that has a name here.")
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = Field(
        "float32", description="The dtype policy of the network, as Keras names it."
    )
    loss: str = Field(
        "dice_crossentropy",
        description="The loss: dice_crossentropy, crossentropy, soft_dice, or module:function of your own code.",
    )
    loss_options: dict[str, Any] = Field({}, description="The arguments of the loss, by name.")
    class_weights: tuple[float, ...] = Field(
        (), description="The weight of each class in the cross-entropy; empty for those of the data set's task."
    )
    optimizer: Literal["adam", "adamw", "lion", "nadam", "rmsprop", "sgd"] = Field(
        "adam", description="The optimizer, as Keras names it."
    )
    optimizer_options: dict[str, Any] = Field({}, description="The arguments of the optimizer, by name.")
    epochs: int = Field(60, ge=1, le=1_000_000, description="The largest number of epochs.")
    batch_size: int = Field(1, ge=1, le=4096, description="The number of volumes in a training step.")
    accumulation: int = Field(
        1, ge=1, le=4096, description="The number of steps whose gradients are averaged for one update of the weights."
    )
    learning_rate: float = Field(0.003, gt=0, le=10, description="The highest learning rate of the schedule.")
    schedule: Literal["cosine", "poly", "constant"] = Field(
        "cosine", description="How the learning rate falls after the warm-up."
    )
    warmup: float = Field(0.05, ge=0, lt=1, description="The share of the training in which the learning rate rises.")
    global_clipnorm: float = Field(
        0.0, ge=0, description="The norm over all weights to which gradients are scaled down; 0 for no limit."
    )
    ema: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="The momentum of the moving average of the weights, which becomes the model; 0 for none.",
    )
    augmentation: Literal["off", "paper", "strong", "nnunet"] = Field(
        "off",
        description="How cases are augmented: by flips and half turns (paper), by distortions as well (strong), or as "
        "in nnU-Net.",
    )
    oversample: float = Field(
        0.0,
        ge=0,
        le=1,
        description="The share of the training's examples that are replaced by cases with a rare class, such as "
        "nnU-Net's 0.33; 0 for none.",
    )
    rare_classes: tuple[str, ...] = Field(
        (), description="The names of the rare classes; empty for those of the foreground without the largest one."
    )
    recompute: Literal["off", "auto"] = Field(
        "off", description="Whether layers are computed again in the backward pass; auto does so if memory is short."
    )
    device_memory: str = Field(
        "",
        pattern=r"^([0-9]+(\.[0-9]+)? ?([kMGT]i?B))?$",
        description="The memory of one device, such as 16GB; empty for what a GPU has, and for no limit on CPUs.",
    )
    validations: int = Field(
        5, ge=1, le=1_000_000, description="The number of validations during a training, in addition to one at its end."
    )
    patience: int = Field(
        0, ge=0, description="The training ends after this many validations without a better Dice; 0 means never."
    )
    minutes: float = Field(0.0, ge=0, description="The training ends after this many minutes; 0 means no limit.")
    seed: int = Field(0, ge=0, lt=2**31, description="The seed of phantoms, weights, shuffling and dropout.")
    backup_steps: int = Field(
        50, ge=1, description="The number of training steps between two backups of the whole state."
    )
    slices: int = Field(1, ge=0, le=64, description="The number of validation cases whose slices TensorBoard shows.")

    @property
    def network_source(self) -> Literal["name", "code", "file"]:
        """Whether the network is one of this package, made by the user's code, or read from a file."""
        if self.network.endswith(".keras"):
            return "file"
        return "code" if ":" in self.network else "name"

    @pydantic.model_validator(mode="after")
    def _network_and_loss_are_known(self) -> Self:
        if self.network_source == "name" and self.network not in NETWORKS:
            raise ValueError(
                f"network: expected one of {', '.join(NETWORKS)}, module:function, or the path of a .keras file. "
                f"Received: {self.network!r}"
            )
        if self.loss not in LOSSES and not _CODE.fullmatch(self.loss):
            raise ValueError(f"loss: expected one of {', '.join(LOSSES)}, or module:function. Received: {self.loss!r}")
        if self.network_source == "code" and not _CODE.fullmatch(self.network):
            raise ValueError(f"network: expected module:function. Received: {self.network!r}")
        return self

    @pydantic.model_validator(mode="after")
    def _network_reads_its_settings(self) -> Self:
        unread = {"name": (), "code": _OF_NAMED, "file": (*_OF_NAMED, "network_options", "precision")}
        for name in unread[self.network_source]:
            value = getattr(self, name)
            if value != TrainingSettings.model_fields[name].default:
                raise ValueError(
                    f"{name}: the network {self.network!r} does not read this setting. Received: {value!r}. "
                    + ("Use network_options." if self.network_source == "code" else "The file determines it.")
                )
        return self

    @pydantic.model_validator(mode="after")
    def _rare_classes_are_drawn(self) -> Self:
        if self.rare_classes and not self.oversample:
            raise ValueError(
                f"rare_classes: they are not used without oversampling. Received: {list(self.rare_classes)} with "
                "oversample 0. Set oversample, such as to 0.33."
            )
        return self

    @pydantic.model_validator(mode="after")
    def _a_tpu_recomputes_nothing(self) -> Self:
        if self.accelerator == "tpu" and self.recompute == "auto":
            raise ValueError(
                "recompute: auto is for CPUs and GPUs. Received: 'auto' with accelerator tpu. Leave it out."
            )
        return self

    @binding("layout", "batch_size")
    def _batch_can_be_shared(self) -> None:
        if self.batch_size % self.shards("batch"):
            raise ValueError(
                f"batch_size: expected a multiple of the {self.shards('batch')} parts of the batch. "
                f"Received: {self.batch_size}"
            )


class LocalTrainingSettings(TrainingSettings, LocalSettings):
    """The settings of a training on one machine."""
