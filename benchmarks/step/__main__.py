"""The training step of a U-Net here, in plain Keras, in JAX and in PyTorch, on the same cores, in turns.

    python -m benchmarks.step --jax-python <python with jax> --torch-python <python with torch>

Each peer runs in its own environment (`pip install jax`; `pip install torch`). All of them start from the same weights
and must compute the same loss before anything is reported. JAX and this package shard x and y over a 2x2 mesh of CPU
devices; PyTorch runs on one device. NVIDIA PhysicsNeMo's ShardTensor is not included: see docs/planning.md.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.results import finish, parser_of, row
from benchmarks.step.network import Case

HERE = Path(__file__).parent


def commands(jax: str | None, torch: str | None) -> dict[str, list[str]]:
    """The command line of each variant, with `{case}` in place of the case."""
    found = {f"ours {mesh}": [sys.executable, "-m", "benchmarks.step.ours", "{case}", mesh] for mesh in ("1x1", "2x2")}
    found["keras"] = [sys.executable, "-m", "benchmarks.step.ours", "{case}", "keras"]
    if jax:
        found |= {f"jax {mesh}": [jax, str(HERE / "jax_step.py"), "{case}", mesh] for mesh in ("1x1", "2x2")}
    if torch:
        found["torch"] = [torch, str(HERE / "torch_step.py"), "{case}"]
    return found


def run(command: list[str], case: Case) -> dict[str, float]:
    line = [part.replace("{case}", json.dumps(asdict(case))) for part in command]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {done.returncode}:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1]) if done.stdout.strip() else {}


def rows_of(figures: dict[str, dict[str, float]]) -> list[dict]:
    def compare(figure: str, name: str, ours: str, peer: str, target: float | None = None, note: str = "") -> dict:
        return row(f"{name}, {ours} over {peer}", figures[ours][figure], figures[peer][figure], target, note=note)

    time, first, memory = "CPU seconds of a step", "seconds to the first step", "peak MB above idle, whole process"
    rows = [compare("cpu", time, "ours 1x1", "keras", 1.02), compare("cpu", time, "ours 2x2", "keras", 1.05)]
    rows += [compare("memory", memory, "ours 1x1", "keras", 1.02), compare("memory", memory, "ours 2x2", "keras", 1.0)]
    rows += [compare("first", first, "ours 2x2", "keras", 2.0)]
    if "torch" in figures:
        rows += [compare("cpu", time, "ours 2x2", "torch"), compare("memory", memory, "ours 2x2", "torch")]
    if "jax 2x2" in figures:
        rows += [compare("cpu", time, "ours 2x2", "jax 2x2", 1.0), compare("memory", memory, "ours 2x2", "jax 2x2")]
        ours = figures["ours 2x2"]["cpu"] / figures["ours 1x1"]["cpu"]
        peer = figures["jax 2x2"]["cpu"] / figures["jax 1x1"]["cpu"]
        rows.append(row("overhead of partitioning: 2x2 over 1x1, ours over JAX's", ours, peer, 1.0))
        rows.append(
            compare(
                "device_memory",
                "MB per device that a step holds",
                "ours 2x2",
                "jax 2x2",
                0.7,
                note="ours as planned (benchmarks.planner checks that), JAX's by its memory_analysis",
            )
        )
        rows.append(compare("first", first, "ours 2x2", "jax 2x2"))
    return rows


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--size", type=int, default=96, help="The number of voxels along each axis.")
    parser.add_argument("--filters", type=int, default=8, help="The number of filters of the U-Net's first level.")
    parser.add_argument("--levels", type=int, default=3, help="The number of levels of the U-Net.")
    parser.add_argument("--steps", type=int, default=3, help="The number of steps measured after the first one.")
    parser.add_argument("--rounds", type=int, default=3, help="The number of processes of each variant.")
    parser.add_argument("--jax-python", help="The path of a Python interpreter with JAX.")
    parser.add_argument("--torch-python", help="The path of a Python interpreter with PyTorch.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        case = Case(arguments.size, arguments.filters, arguments.levels, 3, arguments.steps, folder)
        subprocess.run([sys.executable, "-m", "benchmarks.step.ours", json.dumps(asdict(case)), "write"], check=True)
        variants = commands(arguments.jax_python, arguments.torch_python)
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in variants}
        for _ in range(arguments.rounds):
            for name, command in variants.items():
                runs[name].append(run(command, case))
        losses = {name: found[0]["loss"] for name, found in runs.items()}
        if max(losses.values()) - min(losses.values()) > 1e-4:
            raise SystemExit(f"The variants do not compute the same: losses {losses}")
    figures = {
        name: {key: statistics.median(run[key] for run in found) for key in found[0]} for name, found in runs.items()
    }
    settings = {**asdict(replace(case, folder="")), "rounds": arguments.rounds}
    command = "python -m benchmarks.step --jax-python ... --torch-python ..."
    finish("step", rows_of(figures), settings, command, save=arguments.save)


if __name__ == "__main__":
    main()
