"""The cost of a first step as the mesh grows: seconds to trace and run it, and the size of its graph.

    python -m benchmarks.trace --jax-python <python with jax>

There are two networks: four 3³ convolutions, forward and backward, on meshes from 2x2 to 16x16 (in JAX on the largest
mesh, with as many devices); and the paper's U-Net (4 levels with two normalized convolutions each) on a 16x16x1 mesh
and a 64³ image, whose first loss must be that of plain Keras. Networks of 1 to 16 convolutions on one mesh show how the
first step grows with depth: the time to trace it in Python, the time of a later step, and the rest, in which TensorFlow
places the graph and prepares it for every device. Each network is measured in its own process.
"""

import argparse
import json
import math
import subprocess
import time
from pathlib import Path

from benchmarks.processes import figures_of
from benchmarks.results import finish, parser_of, row

PAPER = "paper"


def build(network: str | int):
    """A network as a compiled plain Keras model, an image and labels; a number is that of its convolutions."""
    import keras
    import numpy as np

    import keras_spatial as ks
    from keras_spatial.saving import plain

    keras.utils.set_random_seed(0)
    generator = np.random.default_rng(0)
    if isinstance(network, int):
        x = inputs = keras.Input((64, 64, 16, 1))
        for _ in range(network):
            x = keras.layers.Conv3D(4, 3, padding="same")(x)
        model = keras.Model(inputs, x)
        model.compile("sgd", "mse", jit_compile=False)
        label = generator.normal(size=(1, 64, 64, 16, 4)).astype("float32")
    else:
        model = plain(ks.models.UNet3D((64, 64, 64, 1), classes=3, filters=8, levels=4, dropout=0.0))
        # Only a model of a user's own class has no plain form.
        assert model is not None
        model.compile("sgd", ks.losses.DiceCrossentropy(), jit_compile=False)
        label = generator.integers(0, 3, size=(1, 64, 64, 64)).astype("int32")
    image = generator.normal(size=(1, *model.input_shape[1:])).astype("float32")
    return model, image, label


def measure(network: str | int, rows: int, columns: int) -> dict[str, float]:
    """The figures of the first step; a mesh of 0x0 means plain Keras."""
    import numpy as np

    import keras_spatial as ks

    partitioned = rows > 0
    if partitioned:
        mesh = ks.device_mesh(f"rows:{rows}, columns:{columns}")
    model, image, label = build(network)
    if partitioned:
        model = ks.partition(model, ks.SpatialParallel(mesh, "x:rows, y:columns"))
    started, before = time.perf_counter(), time.process_time()
    loss = float(np.ravel(model.train_on_batch(image, label))[0])
    first, processor = time.perf_counter() - started, time.process_time() - before
    started = time.perf_counter()
    model.train_on_batch(image, label)
    figures = {"first": first, "processor": processor, "later": time.perf_counter() - started, "loss": loss}
    if partitioned:
        import tensorflow as tf

        step = tf.function(lambda *data: model.train_step(data), autograph=False)
        started = time.perf_counter()
        graph = step.get_concrete_function(tf.constant(image), tf.constant(label)).graph
        figures["trace"] = time.perf_counter() - started
        figures["nodes"] = len(graph.get_operations())
        figures["functions"] = len(graph._functions)
    return figures


def _jax(python: str, rows: int, columns: int) -> float:
    command = [python, str(Path(__file__).parent / "step" / "jax_trace.py"), f"{rows}x{columns}"]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--meshes", nargs="+", default=["2x2", "4x4", "8x8", "16x16"], help="The meshes.")
    parser.add_argument("--depths", type=int, nargs="+", default=[1, 4, 16], help="The numbers of convolutions.")
    parser.add_argument("--depth-mesh", default="8x8", help="The mesh for them; '' leaves them out.")
    parser.add_argument("--paper-mesh", default="16x16", help="The mesh for the U-Net; '' leaves the U-Net out.")
    parser.add_argument("--jax-python", help="The path of a Python interpreter with JAX.")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(*json.loads(arguments.one))))
        return
    found = {mesh: figures_of("trace", 4, *map(int, mesh.split("x"))) for mesh in arguments.meshes}
    smallest, largest = arguments.meshes[0], arguments.meshes[-1]
    rows = []
    for mesh, figures in found.items():
        target = 15 if mesh == "16x16" else None
        rows.append(row(f"four convolutions, {mesh}: seconds to the first step", figures["first"], target=target))
        rows.append(row(f"four convolutions, {mesh}: nodes of the graph", figures["nodes"]))
    per_device = {mesh: f["nodes"] / math.prod(map(int, mesh.split("x"))) for mesh, f in found.items()}
    second = arguments.meshes[min(1, len(arguments.meshes) - 1)]
    for mesh in dict.fromkeys((smallest, second)):
        name = f"nodes of the graph per device, {largest} over {mesh}"
        rows.append(row(name, per_device[largest], per_device[mesh], 1.1))
    for depth in arguments.depths if arguments.depth_mesh else ():
        figures = figures_of("trace", depth, *map(int, arguments.depth_mesh.split("x")))
        name = f"{depth} convolution{'s' if depth > 1 else ''}, {arguments.depth_mesh}: seconds"
        prepared = figures["first"] - figures["trace"] - figures["later"]
        note = f"{figures['processor'] / figures['first']:.2f} cores busy on average in the first step"
        rows.append(row(f"{name} to trace the step", figures["trace"]))
        rows.append(row(f"{name} in which TensorFlow prepares it", prepared, note=note))
        rows.append(row(f"{name} of a later step", figures["later"]))
    if arguments.jax_python:
        peer = _jax(arguments.jax_python, *map(int, largest.split("x")))
        name = f"four convolutions, {largest}: seconds to the first step, ours over JAX's partitioner"
        rows.append(row(name, found[largest]["first"], peer, 2.0))
    if arguments.paper_mesh:
        paper = figures_of("trace", PAPER, *map(int, arguments.paper_mesh.split("x")))
        keras = figures_of("trace", PAPER, 0, 0)
        if abs(paper["loss"] - keras["loss"]) > 1e-4 * abs(keras["loss"]):
            raise SystemExit(f"The losses differ: {paper['loss']} on the mesh, {keras['loss']} in plain Keras")
        name = f"the paper's U-Net, 64³, {arguments.paper_mesh}x1: seconds to the first step"
        rows.append(row(name, paper["first"], target=180, note="its loss is that of plain Keras"))
    settings = {
        "meshes": arguments.meshes,
        "depths": arguments.depths,
        "depth_mesh": arguments.depth_mesh,
        "paper_mesh": arguments.paper_mesh,
    }
    finish("trace", rows, settings, "python -m benchmarks.trace --jax-python ...", save=arguments.save)


if __name__ == "__main__":
    main()
