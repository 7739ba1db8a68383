"""Modules of `keras_spatial` that need no TensorFlow, without their package, which takes seconds to import it."""

import importlib.util
import sys
from functools import cache
from pathlib import Path
from typing import Any


@cache
def load(name: str) -> Any:
    """The module `keras_spatial.<name>`, which imports nothing but Python's own library.

    Args:
        name: such as "layout" or "volumes/limits".
    """
    package = importlib.util.find_spec("keras_spatial")
    assert package is not None and package.submodule_search_locations
    path = Path(next(iter(package.submodule_search_locations))) / f"{name}.py"
    own_name = f"_keras_spatial_{name.replace('/', '_')}"
    spec = importlib.util.spec_from_file_location(own_name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[own_name] = module
    spec.loader.exec_module(module)
    return module
