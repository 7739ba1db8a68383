"""Run the launcher without TensorFlow, whose import takes seconds: `python light.py --processes 2 program.py`."""

import sys
import types
from pathlib import Path

ROOT = Path(__file__).parents[1]


def without_tensorflow():
    """Make the modules of keras_spatial that do not need TensorFlow importable without the package's own imports."""
    package = types.ModuleType("keras_spatial")
    package.__path__ = [str(ROOT / "keras_spatial")]
    sys.modules["keras_spatial"] = package


if __name__ == "__main__":
    without_tensorflow()
    from keras_spatial.launch import main

    sys.exit(main())
