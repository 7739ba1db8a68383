"""Write docs/benchmarks.md from benchmarks/results/*.json.

python docs/generate_benchmarks.py
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
sys.path.insert(0, str(ROOT))

from benchmarks.results import RESULTS, table  # noqa: E402

HEAD = """# Benchmarks

Written by `docs/generate_benchmarks.py` from `benchmarks/results/*.json`; `make bench` measures all of it again. Ratios
are ours over the peer's, from runs that took turns on the same cores, medians. A missed target is printed as such.
"""


def page() -> str:
    parts = [HEAD]
    for path in sorted(RESULTS.glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        machine, versions = result["machine"], result["versions"]
        tensorflow = versions.get("tensorflow") or versions.get("tensorflow-cpu")
        parts.append(
            f"## {result['name']}\n\n`{result['command']}`, {result['date']}, {machine['cores']} cores of "
            f"{machine['processor']}, TensorFlow {tensorflow}, Keras {versions['keras']}. "
            f"Settings: {', '.join(f'{k} {v}' for k, v in result['settings'].items())}.\n\n{table(result['rows'])}\n"
        )
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
