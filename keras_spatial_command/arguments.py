"""The arguments of `keras-spatial`, and how their values are written."""

import argparse
import re

_FACTORS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_RESULTS = ("nii.gz", "nii", "dcm")

_SEGMENT = """Segment volumes with a trained model.

The model's file holds its task: the normalisation, channels and grid of its training. A file without a task needs
--task.

An input is a volume (.nii, .nii.gz, .nrrd, .mha), or a folder with volumes or with DICOM series, one or many. Every
result lies on the grid of its volume. An input that cannot be used is named and listed in failed.csv, and does not stop
the others. DICOM series and their results are called by pseudonyms unless --identifiers=keep asks for their UIDs.

For a model of several channels, a case is one file with all of them, or a file for each, named as nnU-Net names them:
case_0000.nii.gz, case_0001.nii.gz and so on. Its result is case.nii.gz."""
_SEGMENT_END = """Exit status: 0 if every volume has its result, 1 if some have none, 2 if nothing was started because
the arguments do not fit.

Example: keras-spatial segment liver.keras scans study_with_dicom -o results --mesh "rows:2, columns:2" --flips x,y"""
_EVALUATE = """Compare predicted labels with reference labels, case by case.

Files are matched by their names without endings and without "segmentation-", "prediction-", "labels-", "label-" and
"volume-" before them. A DICOM segmentation is read as well. Both have to lie on one grid; their orientation does not
matter. Cases in DICOM files are called by pseudonyms unless --identifiers=keep asks for the files' names."""
_EVALUATE_END = """Exit status: 0 if every case is compared, 1 if some could not be, 2 if none could.

Example: keras-spatial evaluate results labels -o evaluation --classes background,liver,lesion"""
_PLAN = """Find out what a step of a model costs each device of a mesh.

With --mesh it says what a step costs each device, and with --memory as well whether that fits; with --memory alone it
looks for the smallest mesh that fits. With --memory and --devices it cuts the image into shards that the available
devices compute one after another, and says where shards wait and how much is moved. Nothing is run, and only the CPU is
needed."""
_PLAN_END = """Exit status: 0 if it fits, 1 if not, 2 if the arguments are wrong.

Examples: keras-spatial plan --model liver.keras --mesh "rows:2, columns:2" --layout "x:rows, y:columns"
          keras-spatial plan --model unet3d --image 512,512,512,1 --filters 32 --levels 4 --memory 40GB
          keras-spatial plan --model unet3d --image 512,512,512,1 --memory 16GB --devices 1 --offload /scratch"""
_INFO = """Describe a model: its inputs, its classes, its parameters, its receptive field, and what a
prediction would need on a mesh."""
_INFO_END = """Exit status: 0, or 2 if the model cannot be read or the arguments are wrong.

Example: keras-spatial info liver.keras --mesh "rows:2, columns:2\""""


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    result = argparse.ArgumentParser(
        prog="keras-spatial",
        description="Segment volumes that are too large for one device, compare labels, and plan meshes of devices.",
        epilog="Every command has its own help, such as keras-spatial segment --help.",
    )
    commands = result.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, add, text, end, summary in (
        ("segment", _segment, _SEGMENT, _SEGMENT_END, "Segment volumes with a trained model."),
        ("evaluate", _evaluate, _EVALUATE, _EVALUATE_END, "Compare predicted labels with reference labels."),
        ("plan", _plan, _PLAN, _PLAN_END, "Find out what a step of a model costs each device of a mesh."),
        ("info", _info, _INFO, _INFO_END, "Describe a model, and what it would need on a mesh."),
    ):
        add(
            commands.add_parser(
                name,
                help=summary,
                description=text,
                epilog=end,
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
        )
    return result


def _segment(to: argparse.ArgumentParser) -> None:
    to.add_argument("model", metavar="MODEL", help="The trained model, a .keras file.")
    to.add_argument("inputs", metavar="INPUT", nargs="+", help="A volume, or a folder with volumes or DICOM series.")
    to.add_argument(
        "-o", "--output", metavar="FOLDER", required=True, help="The folder for the results, which is made."
    )
    to.add_argument(
        "--format", choices=_RESULTS, default="nii.gz", help="The format of the results; dcm is a DICOM segmentation."
    )
    to.add_argument("--overwrite", action="store_true", help="Replace results that already exist.")
    to.add_argument(
        "--task",
        metavar="TASK",
        help="A task.json in place of the task in the model's file, or 'lits' for CT in LiTS's window over the whole "
        "field of view.",
    )
    to.add_argument(
        "--classes", type=_names, default=(), help="The names of the classes, such as background,liver,lesion."
    )
    to.add_argument(
        "--mesh",
        help="The mesh of devices that share the image, such as 'rows:2, columns:2'. By default there is only one.",
    )
    to.add_argument(
        "--layout",
        default="x:rows, y:columns",
        help="Which image axis is split over which mesh axis (default: %(default)s).",
    )
    to.add_argument(
        "--memory",
        type=memory,
        help="The memory of one device, such as 16GB. With --mesh, a volume that needs more is refused; without it, "
        "the volume is split into shards that fit, which one device computes one after another.",
    )
    to.add_argument(
        "--offload",
        metavar="FOLDER",
        help="The folder where the other shards wait. By default it is the output folder.",
    )
    to.add_argument("--flips", type=_axes, default=(), help="Average over mirror images along these axes, such as x,y.")
    to.add_argument("--patches", action="store_true", help="Predict overlapping patches instead of the whole volume.")
    to.add_argument(
        "--overlap", type=_share, help="The smallest fraction of a patch that neighbouring patches share (default 0.5)."
    )
    to.add_argument(
        "--grid", type=sizes, help="With --patches, the number of voxels to resample to, such as 256,256,200."
    )
    to.add_argument(
        "--largest-liver",
        action="store_true",
        help="Keep only the largest connected liver and the lesions that touch it.",
    )
    to.add_argument("--probabilities", action="store_true", help="The model's outputs are probabilities, not logits.")
    _identifiers(to, "DICOM series by pseudonyms (replace, the default) or by their UIDs (keep)")


def _identifiers(to: argparse.ArgumentParser, what: str) -> None:
    to.add_argument("--identifiers", choices=("replace", "keep"), help=f"Call {what}.")


def _evaluate(to: argparse.ArgumentParser) -> None:
    to.add_argument("predictions", metavar="PREDICTIONS", help="A label file, or a folder with label files.")
    to.add_argument("labels", metavar="LABELS", help="The reference: a label file, or a folder with label files.")
    to.add_argument(
        "-o", "--output", metavar="FOLDER", help="The folder for cases.csv and summary.json, which is made."
    )
    to.add_argument(
        "--classes", type=_names, default=(), help="The names of the classes, such as background,liver,lesion."
    )
    _identifiers(to, "cases in DICOM files by pseudonyms (replace, the default) or by the files' names (keep)")


def _plan(to: argparse.ArgumentParser) -> None:
    to.add_argument("--model", default="unet3d", help="The model: a .keras file, or unet3d (default).")
    to.add_argument("--image", type=sizes, help="The shape of one image with its channels, such as 512,512,512,1.")
    to.add_argument("--classes", type=int, default=3, help="The number of classes of unet3d (default %(default)s).")
    to.add_argument(
        "--filters",
        type=int,
        default=32,
        help="The number of filters of the first level of unet3d (default %(default)s).",
    )
    to.add_argument("--levels", type=int, default=4, help="The number of levels of unet3d (default %(default)s).")
    to.add_argument(
        "--mesh",
        help="The mesh, such as 'rows:2, columns:2'. Without it, the command looks for the smallest mesh that fits.",
    )
    to.add_argument(
        "--layout",
        default="x:rows, y:columns",
        help="Which image axis is split over which mesh axis (default: %(default)s).",
    )
    to.add_argument("--memory", type=memory, help="The memory of one device, such as 16GB or 40GiB.")
    to.add_argument(
        "--devices",
        type=int,
        help="The number of available devices. The image is cut into as many shards as fit their memory, which the "
        "devices compute one after another.",
    )
    to.add_argument(
        "--kind", choices=("gpu", "cpu"), default="gpu", help="The kind of these devices (default %(default)s)."
    )
    to.add_argument(
        "--host-memory",
        type=memory,
        help="The memory of the host in which shards of these devices may wait. By default it is this machine's.",
    )
    to.add_argument("--offload", metavar="FOLDER", help="A folder in which shards of these devices may wait in a file.")
    to.add_argument("--disk", type=memory, help="The largest size of that file. By default it is the free space.")
    to.add_argument(
        "--bandwidth",
        type=memory,
        help="The number of bytes per second that can be moved to where shards wait (default: 20GB for host memory, "
        "2GB for a file).",
    )
    to.add_argument(
        "--most-devices",
        type=int,
        default=256,
        help="The number of devices of the largest mesh to try (default %(default)s).",
    )
    to.add_argument(
        "--batch-size",
        type=int,
        default=1,
        help="The number of images in a step, over all devices together (default %(default)s).",
    )
    to.add_argument("--dtype", help="A dtype policy of Keras, such as mixed_float16. By default it is the model's own.")
    to.add_argument("--predict", action="store_true", help="Plan a step of prediction instead of one of training.")


def _info(to: argparse.ArgumentParser) -> None:
    to.add_argument("model", metavar="MODEL", help="The model, a .keras file.")
    to.add_argument("--image", type=sizes, help="The shape of one image, for a model that leaves it open.")
    to.add_argument("--mesh", help="Say what a prediction needs on this mesh, such as 'rows:2, columns:2'.")
    to.add_argument(
        "--layout",
        default="x:rows, y:columns",
        help="Which image axis is split over which mesh axis (default: %(default)s).",
    )


def sizes(text: str) -> tuple[int, ...]:
    """Positive sizes with commas between them."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(f"expected positive sizes such as 512,512,512,1. Received: {text!r}")
    return tuple(int(part) for part in parts)


def memory(text: str) -> int:
    """Bytes, written as a number with a unit."""
    found = re.fullmatch(r"\s*([0-9.]+)\s*([a-zA-Z]*)\s*", text)
    factor = _FACTORS.get(found[2].upper()) if found else None
    try:
        if found is None or factor is None:
            raise ValueError
        return int(float(found[1]) * factor)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected a size such as 16GB or 40GiB. Received: {text!r}") from error


def _names(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(","))
    if len(names) < 2 or not all(names) or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(
            f"expected different names, that of the background first, such as background,liver. Received: {text!r}"
        )
    return names


def _axes(text: str) -> tuple[str, ...]:
    axes = tuple(part.strip() for part in text.split(","))
    if len(set(axes)) < len(axes) or not set(axes) <= {"x", "y", "z"}:
        raise argparse.ArgumentTypeError(f"expected different ones of x, y and z, such as x,y. Received: {text!r}")
    return axes


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise argparse.ArgumentTypeError(f"expected a share of at least 0 and below 1. Received: {text!r}")
    return share
