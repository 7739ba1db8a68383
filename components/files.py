"""Files that are complete or absent."""

import json
from pathlib import Path
from typing import Any


def write_json(path: str | Path, value: Any) -> Path:
    """Write a value as JSON; the file appears only when it is complete."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".part-{path.name}")
    try:
        part.write_text(json.dumps(value, indent=1, allow_nan=False), encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def read_json(path: str | Path) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))
