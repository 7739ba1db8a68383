"""Python imports this module at its start: the step that `TEST_FAULT` names finds the disk full when it begins."""

import os
import sys
from importlib.machinery import PathFinder

fault = os.environ.get("TEST_FAULT")


class _Finder:
    """Replaces the function of the step, once `components.resume` has been executed."""

    def find_spec(self, name, path=None, target=None):
        if name != "components.resume":
            return None
        spec = PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            original = module.step

            def step(name, function, **arguments):
                original(name, _full_disk if name == fault else function, **arguments)

            module.step = step

        spec.loader.exec_module = exec_module
        return spec


def _full_disk(**_):
    raise OSError(28, "No space left on device")


if fault and os.environ.get("_KFP_RUNTIME") == "true":
    sys.meta_path.insert(0, _Finder())
