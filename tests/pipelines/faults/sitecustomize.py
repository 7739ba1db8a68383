"""Python imports this module at its start. In steps that `TEST_FAULT` names (`name=kind,...`), something goes wrong.

- `disk`: the disk is full when half of an output is written;
- `killed`: the process is killed when half of an output is written, as if memory had run out;
- `limit`: the step itself runs, and the system refuses its writes beyond some bytes.
"""

import errno
import functools
import os
import resource
import signal
import sys
from importlib.machinery import PathFinder
from pathlib import Path

faults = dict(fault.split("=") for fault in os.environ.get("TEST_FAULT", "").split(",") if fault)
LIMIT_BYTES = 1500


class _Finder:
    """Replaces the function of the step, once `components.resume` has been executed."""

    def find_spec(self, module, path=None, target=None):
        if module != "components.resume":
            return None
        spec = PathFinder.find_spec(module, path)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            original = module.step

            def step(called, function, *, outputs, **arguments):
                kind = faults.get(called)
                if kind == "limit":
                    # Every later process of Python would take a truncated file of bytecode for a complete one.
                    sys.dont_write_bytecode = True
                    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT_BYTES, LIMIT_BYTES))
                elif kind:
                    function = functools.partial(_half, kind, [artifact.path for artifact in outputs.values()])
                original(called, function, outputs=outputs, **arguments)

            module.step = step

        spec.loader.exec_module = exec_module
        return spec


def _half(kind, paths, **_):
    for path in paths:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(b"half")
    if kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), paths[0])


if faults and os.environ.get("_KFP_RUNTIME") == "true":
    sys.meta_path.insert(0, _Finder())
