"""Images that do not fit into memory: shards are computed one after another on one device, and kept in files meanwhile.

    python -m benchmarks.streaming                 # the figures of the table
    python -m benchmarks.streaming --part step --size 128
    python -m benchmarks.streaming --part large    # 512³ on this machine: hours

Each figure is measured in its own process: the peak memory above that of the idle process (with TensorFlow loaded and
the model made), and wall and CPU time. The images of 512³ are computed in a process that cannot allocate more than the
figure to be reached (`RLIMIT_DATA`): a step that needs more ends with an error.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.results import finish, parser_of, row

PARTS = ("step", "large", "mesh", "positions")


def _resident() -> float:
    """The resident memory of this process at the moment, in gigabytes."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 1e9


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def _distribution(mesh: str, layout: str, folder: str | None):
    import keras_spatial as ks

    if folder is None:
        return ks.SpatialParallel(ks.device_mesh(mesh), layout)
    return ks.SpatialParallel(ks.device_mesh(mesh, devices=["cpu:0"]), layout, offload=folder)


def train(size: int, filters: int, levels: int, mesh: str, folder: str | None, steps: int) -> dict:
    """Run training steps of a U-Net on random images."""
    import keras
    import numpy as np

    import keras_spatial as ks

    keras.utils.set_random_seed(0)
    with _distribution(mesh, "x:rows, y:columns", folder).scope():
        model = ks.models.UNet3D((size, size, size, 1), classes=3, filters=filters, levels=levels, dropout=0.0)
    model.compile("adam", ks.losses.DiceCrossentropy())
    generator = np.random.default_rng(0)
    image = generator.random((1, size, size, size, 1), "float32")
    label = (image[..., 0] * 3).astype("int32")
    idle, losses, seconds, cpu = _resident(), [], [], []
    for _ in range(steps):
        start, before = time.perf_counter(), time.process_time()
        losses.append(float(model.train_on_batch(image, label)))
        seconds.append(time.perf_counter() - start)
        cpu.append(time.process_time() - before)
    return {"memory": _peak() - idle, "peak": _peak(), "losses": losses, "seconds": seconds, "cpu": cpu}


def segment(size: int, filters: int, levels: int, mesh: str, folder: str | None) -> dict:
    """Run one whole-volume prediction, from a NIfTI file to a NIfTI file."""
    import keras
    import nibabel as nib
    import numpy as np

    import keras_spatial as ks

    keras.utils.set_random_seed(0)
    with _distribution(mesh, "x:rows, y:columns", folder).scope():
        model = ks.models.UNet3D((size, size, size, 1), classes=3, filters=filters, levels=levels)
    with tempfile.TemporaryDirectory() as place:
        voxels = np.random.default_rng(0).integers(-1000, 1000, (size, size, size), "int16")
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), f"{place}/volume.nii")
        del voxels
        start, before = time.perf_counter(), time.process_time()
        image = ks.volumes.hu_window(ks.volumes.read_volume(f"{place}/volume.nii").array)[None, ..., None]
        (path,) = ks.inference.predict_to_files(model, image, f"{place}/labels.nii")
        seconds, cpu = time.perf_counter() - start, time.process_time() - before
        assert nib.load(path).shape == (size, size, size)
    return {"peak": _peak(), "seconds": seconds, "cpu": cpu}


def predict_positions(size: int, mesh: str) -> dict:
    """Run a small 2D network on a mesh with many positions."""
    import keras
    import numpy as np

    import keras_spatial as ks

    keras.utils.set_random_seed(0)
    with tempfile.TemporaryDirectory() as folder, _distribution(mesh, "x:rows, y:columns", folder).scope():
        inputs = keras.Input((size, size, 1))
        x = ks.layers.Conv2D(8, 3, padding="same", activation="relu")(inputs)
        x = ks.layers.Conv2D(8, 3, padding="same", activation="relu")(ks.layers.MaxPooling2D()(x))
        model = ks.Model(inputs, ks.layers.Conv2D(2, 1, dtype="float32")(x))
        image = np.random.default_rng(0).random((1, size, size, 1), "float32")
        idle, start, before = _resident(), time.perf_counter(), time.process_time()
        for blocks in model.predict_blocks(image, batch_size=1):
            total = float(sum(block.values.sum(dtype="float64") for block in blocks))
        seconds, cpu = time.perf_counter() - start, time.process_time() - before
    return {"memory": _peak() - idle, "seconds": seconds, "cpu": cpu, "sum": total}


def _run(function: str, limit: int | None = None, **arguments) -> dict:
    """Run a function of this module in its own process, which may allocate at most `limit` gigabytes."""
    program = (
        "import json, resource, sys; from benchmarks import streaming; arguments, limit = json.loads(sys.argv[1]); "
        "limit and resource.setrlimit(resource.RLIMIT_DATA, (limit * 10**9, limit * 10**9)); "
        f"print('RESULT', json.dumps(streaming.{function}(**arguments)))"
    )
    command = [sys.executable, "-c", program, json.dumps([arguments, limit])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            print(f"{function} {arguments}: {line[7:]}", flush=True)
            return json.loads(line[7:])
    raise RuntimeError(f"{function} {arguments} ended with status {done.returncode}:\n{done.stderr[-3000:]}")


def step(size: int, mesh: str, folder: str) -> list[dict]:
    """Compare a training step whose shards are in files with the ordinary runtime on one device."""
    network = {"size": size, "filters": 16, "levels": 4}
    streamed = _run("train", **network, mesh=mesh, folder=folder, steps=2)
    ordinary = _run("train", **network, mesh="rows:1, columns:1", folder=None, steps=2)
    name = f"U-Net (4 levels, 16 filters) training at {size}³, mesh '{mesh}' on one CPU, files, over 1x1"
    return [
        row(f"{name}: peak memory above idle, GB", streamed["memory"], ordinary["memory"], 0.15),
        row(f"{name}: second step, s", streamed["seconds"][1], ordinary["seconds"][1], 2.0),
        row(f"{name}: second step, CPU s", streamed["cpu"][1], ordinary["cpu"][1]),
        row(f"{name}: difference of the second loss", abs(streamed["losses"][1] - ordinary["losses"][1]), None, 1e-5),
    ]


def large(size: int, mesh: str, folder: str) -> list[dict]:
    """Run the paper's network on an image of the paper's size."""
    found = _run("segment", 8, size=size, filters=32, levels=4, mesh=mesh, folder=folder)
    rows = [
        row(f"paper's U-Net, {size}³, one prediction from NIfTI to NIfTI: resident memory, GB", found["peak"], None, 8),
        row(f"the same: s, of them {found['cpu']:.0f} s of CPU", found["seconds"]),
    ]
    found = _run("train", 16, size=size, filters=8, levels=4, mesh=mesh, folder=folder, steps=3)
    falls = found["losses"][2] < found["losses"][1] < found["losses"][0]
    return [
        *rows,
        row(f"8 filters, {size}³, training steps: resident memory, GB", found["peak"], None, 16),
        row("the same: s a step", found["seconds"][1]),
        row("the same: whether the loss falls over 3 steps", float(falls), None, 1, smallest=True),
    ]


def mesh_of_256(size: int, folder: str) -> list[dict]:
    """Run the paper's network on the paper's mesh."""
    found = _run("train", size=size, filters=32, levels=4, mesh="rows:16, columns:16", folder=folder, steps=1)
    whole = _run("train", size=size, filters=32, levels=4, mesh="rows:1, columns:1", folder=None, steps=1)
    name = f"paper's U-Net on 16 x 16 positions, {size}³"
    return [
        row(f"{name}: first step, s", found["seconds"][0], None, 60),
        row(f"{name}: relative difference of the loss", abs(found["losses"][0] / whole["losses"][0] - 1), None, 1e-5),
    ]


def positions(size: int) -> list[dict]:
    """Check that memory does not grow with the number of positions."""
    many = _run("predict_positions", size=size, mesh="rows:64, columns:64")
    few = _run("predict_positions", size=size, mesh="rows:16, columns:16")
    name = f"2D network, {size}², 64 x 64 positions over 16 x 16"
    return [
        row(f"{name}: peak memory above idle, GB", many["memory"], few["memory"], 1.1),
        row(f"{name}: s", many["seconds"], few["seconds"]),
        row(f"{name}: relative difference of the output's sum", abs(many["sum"] / few["sum"] - 1), None, 1e-6),
    ]


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument(
        "--part", choices=PARTS, action="append", help="What to measure; by default step, mesh and positions."
    )
    parser.add_argument("--size", type=int, help="The size of the image, in place of the part's own.")
    parser.add_argument("--mesh", default="rows:8, columns:8", help="The mesh of the parts step and large.")
    parser.add_argument("--folder", help="The folder where shards are kept; a temporary one by default.")
    options = parser.parse_args()
    rows: list[dict] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or temporary
        for part in options.part or ("step", "mesh", "positions"):
            if part == "step":
                rows += step(options.size or 224, options.mesh, folder)
            elif part == "large":
                rows += large(options.size or 512, options.mesh, folder)
            elif part == "mesh":
                rows += mesh_of_256(options.size or 64, folder)
            else:
                rows += positions(options.size or 16384)
    command = " ".join(["python -m benchmarks.streaming", *(text for text in sys.argv[1:] if text != "--save")])
    finish("streaming", rows, vars(options), command, save=options.save)


if __name__ == "__main__":
    main()
