"""The seconds to JAX's first step of four 3³ convolutions, forward and backward, on a mesh of CPU devices."""

import os
import sys
import time

ROWS, COLUMNS = map(int, sys.argv[1].split("x"))
# JAX reads this variable when it is imported.
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={ROWS * COLUMNS}"

# ruff: noqa: E402
import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

LAYOUT = ("NDHWC", "DHWIO", "NDHWC")


def main() -> None:
    generator = np.random.default_rng(0)
    mesh = Mesh(np.array(jax.devices()).reshape(ROWS, COLUMNS), ("rows", "columns"))
    whole = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec(None, "rows", "columns"))
    kernels = [generator.normal(size=(3, 3, 3, c, 4)).astype("float32") for c in (1, 4, 4, 4)]

    def objective(kernels, x, y):
        for kernel in kernels:
            x = lax.conv_general_dilated(x, kernel, (1, 1, 1), "SAME", dimension_numbers=LAYOUT)
        return ((x - y) ** 2).mean()

    def step(kernels, x, y):
        loss, gradients = jax.value_and_grad(objective)(kernels, x, y)
        return jax.tree.map(lambda k, g: k - 0.01 * g, kernels, gradients), loss

    compiled = jax.jit(step, in_shardings=(whole, split, split), out_shardings=(whole, whole))
    x = jax.device_put(generator.normal(size=(1, 64, 64, 16, 1)).astype("float32"), split)
    y = jax.device_put(generator.normal(size=(1, 64, 64, 16, 4)).astype("float32"), split)
    state = jax.device_put(kernels, whole)
    started = time.perf_counter()
    _, loss = compiled(state, x, y)
    float(loss)
    print(time.perf_counter() - started)


if __name__ == "__main__":
    main()
