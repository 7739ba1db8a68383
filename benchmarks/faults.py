"""Training runs that are killed at random, again and again: does each go on and end with the same weights?

    python -m benchmarks.faults --rounds 20

In each round one of two processes, drawn at random, is ended by `kill -9` at a random time during or after a random
step; a backup is written after each. The launcher must end the other process, the backup must load, and the run that
is started anew must end with the weights of an uninterrupted run: bit for bit on the same mesh (with dropout), and
within 1e-4 on another one (every fourth round). The seed makes a study repeatable but for the moment of the kill.
"""

import argparse
import io
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.results import row, save
from keras_spatial.launch import launch

TRAIN = Path(__file__).parents[1] / "tests" / "runtimes" / "train.py"
STEPS = 4  # Of the whole run, in two epochs.
KILLED = 137


def train(folder: Path, processes: int, *arguments: str, expected: int = 0) -> tuple[dict[str, np.ndarray], float]:
    """Weights at the end, and seconds."""
    output = io.StringIO()
    started = time.monotonic()
    command = [sys.executable, str(TRAIN), "--output", str(folder / "result{rank}.npz"), *arguments]
    status = launch(command, processes, output)
    seconds = time.monotonic() - started
    if status != expected:
        raise SystemExit(f"{' '.join(arguments)} ended with status {status}, not {expected}:\n{output.getvalue()}")
    if expected:
        return {}, seconds
    with np.load(folder / "result0.npz") as file:
        return {name: file[name] for name in file.files if name.startswith("weight")}, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    generator = random.Random(arguments.seed)
    equal, rounds, ends = 0, [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wholes = {rate: train(folder, 2, "--dropout", rate) for rate in ("0.0", "0.3")}
        for number in range(arguments.rounds):
            other = number % 4 == 3
            # Dropout draws other numbers on another mesh.
            rate = "0.0" if other else "0.3"
            backup = ("--dropout", rate, "--backup", str(folder / f"backup{number}"))
            die = f"{generator.randrange(2)}:{generator.randrange(1, STEPS)}:{generator.uniform(0, 1):.3f}"
            _, seconds = train(folder, 2, *backup, "--die", die, expected=KILLED)
            ends.append(seconds)
            mesh = ("--mesh", "rows:2, columns:2", "--layout", "x:columns, y:rows") if other else ()
            found, _ = train(folder, 1 if other else 2, *backup, *mesh)
            difference = max(float(np.abs(found[n] - value).max()) for n, value in wholes[rate][0].items())
            equal += difference <= (1e-4 if other else 0)
            rounds.append({"kill": die, "mesh": "another" if other else "the same", "difference": difference})
            print(f"{number + 1}/{arguments.rounds} {rounds[-1]}, killed run ended after {seconds:.0f} s", flush=True)
    whole = statistics.median(seconds for _, seconds in wholes.values())
    rows = [
        row(
            f"of {arguments.rounds} killed runs, those that ended with the same weights",
            equal,
            None,
            arguments.rounds,
            smallest=True,
        ),
        row("seconds until a killed run has ended in all processes, longest, over a whole run", max(ends), whole),
        row(
            "largest difference of a weight after a restart on another mesh",
            max([r["difference"] for r in rounds if r["mesh"] == "another"], default=0.0),
            None,
            1e-4,
        ),
    ]
    save("faults", rows, {**vars(arguments), "kills": rounds}, "python -m benchmarks.faults")


if __name__ == "__main__":
    main()
