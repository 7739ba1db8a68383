"""The step with JAX, whose partitioner shards x and y over a mesh of CPU devices. It needs an environment with JAX."""

import os
import sys

ROWS, COLUMNS = map(int, sys.argv[2].split("x"))
# JAX reads this variable when it is imported.
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={ROWS * COLUMNS}"

# ruff: noqa: E402
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from network import EPSILON, SLOPE, Case, case_from_arguments, report

LAYOUT = ("NDHWC", "DHWIO", "NDHWC")


def convolve(x, kernel, padding="SAME"):
    return lax.conv_general_dilated(x, kernel, (1, 1, 1), padding, dimension_numbers=LAYOUT)


def normalized(x, gamma, beta):
    mean = x.mean((0, 1, 2, 3))
    variance = ((x - mean) ** 2).mean((0, 1, 2, 3))
    return (x - mean) * lax.rsqrt(variance + EPSILON) * gamma + beta


def upsampled(x, kernel):
    # Keras stores the kernel of a transposed convolution as [..., out, in].
    kernel = jnp.swapaxes(jnp.flip(kernel, (0, 1, 2)), 3, 4)
    return lax.conv_general_dilated(
        x, kernel, (1, 1, 1), [(1, 1)] * 3, lhs_dilation=(2, 2, 2), dimension_numbers=LAYOUT
    )


def network(w, x, levels: int):
    def block(x, name):
        for n in (1, 2):
            x = convolve(x, w[f"{name}_conv{n}/kernel"])
            x = normalized(x, w[f"{name}_norm{n}/gamma"], w[f"{name}_norm{n}/beta"])
            x = jnp.where(x > 0, x, SLOPE * x)
        return x

    skips = []
    for level in range(levels):
        if level:
            x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 2, 1), (1, 2, 2, 2, 1), "VALID")
        x = block(x, f"down{level}")
        skips.append(x)
    for level in reversed(range(levels - 1)):
        x = upsampled(x, w[f"up{level}_transposed/kernel"])
        if f"up{level}_transposed/bias" in w:
            x = x + w[f"up{level}_transposed/bias"]
        x = block(jnp.concatenate([skips[level], x], -1), f"up{level}")
    x = convolve(x, w["classes/kernel"])
    return x + w["classes/bias"] if "classes/bias" in w else x


def main() -> None:
    case: Case = case_from_arguments()
    weights, image, label = case.load()
    mesh = Mesh(np.array(jax.devices()).reshape(ROWS, COLUMNS), ("rows", "columns"))
    whole = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec(None, "rows", "columns"))

    def objective(w, x, y):
        logits = lax.with_sharding_constraint(network(w, x, case.levels), split)
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[..., None], -1).mean()

    def step(w, x, y):
        loss, gradients = jax.value_and_grad(objective)(w, x, y)
        return jax.tree.map(lambda a, g: a - 1e-6 * g, w, gradients), loss

    compiled = jax.jit(step, in_shardings=(whole, split, split), out_shardings=(whole, whole))
    state = [jax.device_put(weights, whole)]
    x, y = jax.device_put(image, split), jax.device_put(label, split)

    def run() -> float:
        state[0], loss = compiled(state[0], x, y)
        return float(loss)

    analysis = compiled.lower(state[0], x, y).compile().memory_analysis()
    jax.clear_caches()
    report(run, case.steps, device_memory=analysis.temp_size_in_bytes / 1e6)


if __name__ == "__main__":
    main()
