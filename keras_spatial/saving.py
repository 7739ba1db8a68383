"""Saving and exporting partitioned models: their files are those of the plain Keras models they were made from."""

import os
import re
import warnings
import zipfile
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras

from keras_spatial import keras_private, model_tasks
from keras_spatial.keras_private import Functional

if TYPE_CHECKING:
    from keras_spatial.model import Model

_PACKAGE = "keras_spatial"


def plain(model: "Model") -> keras.Model | None:
    """The plain Keras model that shares a partitioned one's layers, variables and optimizer.

    The result is None if the model's class itself derives from `ks.Model`, because such a model has no plain form.
    """
    cls = model._partition.plain_class
    if cls is None and type(model).__module__ == f"{_PACKAGE}.model" and isinstance(model, Functional):
        cls = Functional
    if cls is None:
        return None
    result = keras_private.shared_copy(model, cls)
    del vars(result)["_partition"]
    return result


def save(model: "Model", keras_save: Callable, filepath: Any, **kwargs: Any) -> None:
    """Save the plain model, and warn if plain Keras needs a class of this package to load the file."""
    # A model without a mesh is saved as its plain twin too: Keras cannot find this package's functional class by name.
    twin = plain(model)
    (keras_save if twin is None else twin.save)(filepath, **kwargs)
    task = model_tasks.attached(model)
    if task is not None and zipfile.is_zipfile(os.fspath(filepath)):
        model_tasks.write_member(filepath, task)
    names = package_classes(filepath)
    if names:
        warnings.warn(
            f"'{filepath}' names {', '.join(names)} of {_PACKAGE}. Plain Keras loads it after `import {_PACKAGE}`; "
            "if these are only losses or metrics, keras.saving.load_model(..., compile=False) loads it too.",
            stacklevel=3,
        )


def package_classes(filepath: Any) -> list[str]:
    """The classes of this package that a `.keras` file names."""
    path = os.fspath(filepath)
    if not zipfile.is_zipfile(path):
        return []
    with zipfile.ZipFile(path) as archive:
        if "config.json" not in archive.namelist():
            return []
        text = archive.read("config.json").decode()
    found = re.findall(rf'"registered_name": "{_PACKAGE}>(\w+)"', text)
    found += re.findall(rf'"module": "{_PACKAGE}[\w.]*", "class_name": "(\w+)"', text)
    return sorted(set(found))


def export(model: "Model", keras_export: Callable, filepath: Any, *args: Any, **kwargs: Any) -> None:
    """Export the plain model.

    Raises:
        ValueError: if the model has a mesh and its class itself derives from `ks.Model`.
    """
    if model.distribution is None:
        keras_export(filepath, *args, **kwargs)
        return
    twin = plain(model)
    if twin is None:
        raise ValueError(
            f"A model of class {type(model).__name__}, which derives from ks.Model, cannot be exported with its mesh. "
            f"Make '{model.name}' without a distribution, load its weights and export that model."
        )
    twin.export(filepath, *args, **kwargs)
