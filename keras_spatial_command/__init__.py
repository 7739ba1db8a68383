"""The command `keras-spatial`: only its arguments, so that its help does not import TensorFlow, which takes seconds.

It is a package beside `keras_spatial`, because importing anything from that package imports TensorFlow.
`keras_spatial.commands` has what the commands do.
"""

import argparse
import importlib
import importlib.util
import os
import sys
from pathlib import Path

from keras_spatial_command.arguments import parser

REFUSED = 2


def main(arguments: list[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: the arguments without the command's name; by default those of the process.

    Returns:
        The exit status: 0 if everything was done, 1 if something could not be done, and `REFUSED` if nothing was
        started because the arguments or the inputs are wrong.
    """
    chosen = parser().parse_args(arguments)
    if getattr(chosen, "identifiers", None):
        os.environ["KERAS_SPATIAL_IDENTIFIERS"] = chosen.identifiers
    try:
        _check(chosen)
        return importlib.import_module(f"keras_spatial.commands.{chosen.command}").run(chosen)
    except (ValueError, OSError, ImportError) as error:
        print(_visible(f"error: {error}"), file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        kept = " Results that are complete are kept." if chosen.command == "segment" else ""
        print(f"error: interrupted.{kept}", file=sys.stderr)
        return 130


def _visible(text: str) -> str:
    """A text without anything that a terminal obeys: an error may name files, and what is in them."""
    package = importlib.util.find_spec("keras_spatial")
    assert package is not None and package.submodule_search_locations
    # By its path, because importing it from its package imports TensorFlow.
    spec = importlib.util.spec_from_file_location("_texts", Path(package.submodule_search_locations[0], "_texts.py"))
    assert spec is not None and spec.loader is not None
    texts = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(texts)
    return texts.visible(text)


def _check(chosen: argparse.Namespace) -> None:
    """Check what can be checked before TensorFlow is imported, which takes seconds."""
    model = getattr(chosen, "model", None)
    if model in (None, "unet3d"):
        return
    if not Path(model).is_file():
        found = "a folder" if Path(model).is_dir() else "no regular file" if Path(model).exists() else "no such file"
        raise ValueError(f"The model must be a .keras file. Received: {model!r}, {found}")
