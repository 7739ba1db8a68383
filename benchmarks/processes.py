"""Measuring in processes of their own, so that no figure depends on what was measured before."""

import json
import os
import subprocess
import sys
from typing import Any


def figures_of(benchmark: str, *arguments: Any) -> dict[str, float]:
    """Run `python -m benchmarks.<benchmark> --one [arguments]`, which prints its figures as JSON on its last line.

    Args:
        benchmark: the name of the module, such as "networks".
        *arguments: what is measured, as values that JSON can hold.

    Raises:
        SystemExit: if the process fails, with the end of what it has printed.
    """
    command = [sys.executable, "-m", f"benchmarks.{benchmark}", "--one", json.dumps(arguments)]
    done = subprocess.run(command, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{benchmark} {arguments} ended with status {done.returncode}:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])
