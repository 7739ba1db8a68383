"""The command line of the planner.

    python -m keras_spatial plan --model liver.keras --mesh "rows:2, columns:2" --layout "x:rows, y:columns"
    python -m keras_spatial plan --model unet3d --image 512,512,512,1 --filters 32 --levels 4 --memory 40GB

With `--mesh` it says what a step costs each device of it, and with `--memory` besides whether that fits; with
`--memory` alone it looks for the smallest mesh that fits. Nothing is run, and no device but the CPU is needed. The exit
status is 0 if it fits, 1 if not, 2 if the arguments are wrong.
"""

import argparse
import math
import re
import sys
from pathlib import Path

import keras

from keras_spatial.distribution import SpatialParallel
from keras_spatial.mesh import device_mesh, parse_pairs
from keras_spatial.models import UNet3D
from keras_spatial.planning.plan import plan
from keras_spatial.planning.search import NothingFits, smallest_mesh

_FACTORS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m keras_spatial")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_arguments(
        commands.add_parser(
            "plan",
            help="what one step of a model costs each device of a mesh",
            description=__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )
    chosen = parser.parse_args(arguments)
    try:
        return _plan(chosen)
    except NothingFits as error:
        print(error)
        return 1
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="unet3d", help="a .keras file, or unet3d (default)")
    parser.add_argument("--image", type=_sizes, help="shape of one image with its channels, such as 512,512,512,1")
    parser.add_argument("--classes", type=int, default=3, help="unet3d: classes (default 3)")
    parser.add_argument("--filters", type=int, default=32, help="unet3d: filters of the first level (default 32)")
    parser.add_argument("--levels", type=int, default=4, help="unet3d: levels (default 4)")
    parser.add_argument("--mesh", help="such as 'rows:2, columns:2'; without it the smallest that fits is sought")
    parser.add_argument("--layout", default="x:rows, y:columns", help="default: 'x:rows, y:columns'")
    parser.add_argument("--memory", type=_memory, help="of one device, such as 16GB or 40GiB")
    parser.add_argument("--most-devices", type=int, default=256, help="largest mesh to try (default 256)")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--dtype", help="a Keras dtype policy such as mixed_float16; default: the model's own")
    parser.add_argument("--predict", action="store_true", help="plan a step of predict instead of fit")


def _plan(chosen: argparse.Namespace) -> int:
    if chosen.mesh is None and chosen.memory is None:
        raise ValueError("say either --mesh, or --memory to look for a mesh, or both")
    model, shape = _model(chosen)
    options = {"dtype": chosen.dtype, "training": not chosen.predict, "input_shape": shape}
    options["batch_size"] = chosen.batch_size
    if chosen.mesh is None:
        found = smallest_mesh(model, chosen.memory, most_devices=chosen.most_devices, **options)
        print(found)
        return 0
    sizes = dict(parse_pairs(chosen.mesh, "mesh shape"))
    if not all(value.isdigit() for value in sizes.values()):
        raise ValueError(f"--mesh is written as 'name:size, name:size'. Received: {chosen.mesh!r}")
    count = math.prod(int(value) for value in sizes.values())
    mesh = device_mesh(chosen.mesh, devices=["cpu:0"] * count)
    found = plan(model, SpatialParallel(mesh, chosen.layout), **options)
    print(found)
    if chosen.memory is None:
        return 0
    print(found.explain(chosen.memory))
    return 0 if found.fits(chosen.memory) else 1


def _model(chosen: argparse.Namespace) -> tuple[keras.Model, tuple[int, ...] | None]:
    if chosen.model != "unet3d":
        path = Path(chosen.model)
        if not path.exists():
            raise ValueError(f"--model: expected a .keras file, or unet3d. Received: {chosen.model!r}, no such file")
        return keras.saving.load_model(path), chosen.image
    if chosen.image is None or len(chosen.image) != 4:
        raise ValueError("--model unet3d needs the image's shape: --image 512,512,512,1")
    return UNet3D(chosen.image, chosen.classes, filters=chosen.filters, levels=chosen.levels), None


def _sizes(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(f"expected positive sizes such as 512,512,512,1. Received: {text!r}")
    return tuple(int(part) for part in parts)


def _memory(text: str) -> int:
    found = re.fullmatch(r"\s*([0-9.]+)\s*([a-zA-Z]*)\s*", text)
    factor = _FACTORS.get(found[2].upper()) if found else None
    if not found or factor is None:
        raise argparse.ArgumentTypeError(f"expected a size such as 16GB or 40GiB. Received: {text!r}")
    return int(float(found[1]) * factor)
