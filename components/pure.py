"""Load modules of `keras_spatial` that need only the standard library, without the package, which imports TensorFlow.

TensorFlow takes seconds to import, and a step that only compares two numbers does not need it.
"""

import importlib.util
import sys
from functools import cache
from pathlib import Path
from typing import Any


@cache
def load(name: str) -> Any:
    """Load the module `keras_spatial.<name>`, which imports only the standard library.

    Args:
        name: the name of the module, such as "layout" or "volumes/limits".
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
