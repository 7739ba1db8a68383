"""Files of partitioned models, which are those of the plain Keras models that they were made of."""

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

    None for a class that derives from `ks.Model` itself, which is not plain without it.
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
    """Save the plain model, and warn if plain Keras must know of a class of this package to load the file."""
    # Without a mesh as well: Keras does not find the functional class of this package by its name.
    twin = plain(model)
    (keras_save if twin is None else twin.save)(filepath, **kwargs)
    task = model_tasks.attached(model)
    if task is not None and zipfile.is_zipfile(os.fspath(filepath)):
        model_tasks.write_member(filepath, task)
    names = package_classes(filepath)
    if names:
        warnings.warn(
            f"'{filepath}' names {', '.join(names)} of {_PACKAGE}. Plain Keras loads it after `import {_PACKAGE}`; "
            "where these are losses or metrics alone, also by keras.saving.load_model(..., compile=False).",
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
        ValueError: if the model's class derives from `ks.Model` itself and it has a mesh.
    """
    if model.distribution is None:
        keras_export(filepath, *args, **kwargs)
        return
    twin = plain(model)
    if twin is None:
        raise ValueError(
            f"A model of the class {type(model).__name__}, which derives from ks.Model, is not exported with its mesh. "
            f"Make '{model.name}' without a distribution, load its weights and export that."
        )
    twin.export(filepath, *args, **kwargs)
