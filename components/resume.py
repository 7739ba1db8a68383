"""Running a step, or taking its results from an earlier run of the same step with the same inputs.

KFP's cache does not know the package code that a component imports, and would return stale results. So each step has a
key: the digest of its name, settings, project code, and the keys of the steps that made its inputs. Finished steps are
recorded under their key in the folder that `KERAS_SPATIAL_STEPS` names. Without it (on a cluster, where KFP's own cache
does this) a step just runs.

A step that is interrupted in its middle can go on there: it gets a folder of its own, named by its key, in the one that
`KERAS_SPATIAL_SCRATCH` names. It is removed when the step has finished.
"""

import hashlib
import json
import os
import pkgutil
import shutil
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from components.files import read_json, write_json

STEPS_VARIABLE = "KERAS_SPATIAL_STEPS"
SCRATCH_VARIABLE = "KERAS_SPATIAL_SCRATCH"
JOURNAL = "journal.jsonl"

_ROOT = Path(__file__).resolve().parent.parent
_CODE = ("components", "datasets", "keras_spatial")

Metadata = Mapping[str, Mapping[str, Any]]


def step(
    name: str,
    function: str | Callable[..., Metadata | None],
    *,
    inputs: Mapping[str, Any] | None = None,
    outputs: Mapping[str, Any],
    settings: Mapping[str, Any] | None = None,
    folders: Mapping[str, str] | None = None,
    scratch: bool = False,
) -> None:
    """Call `function` with paths and settings, and describe what it made.

    Args:
        name: of the step, for the log and the record.
        function: takes the paths of `inputs` and `outputs`, the `settings` and the `folders` as keyword arguments, and
            returns metadata by name of output, or None. As text, such as "components.train.train:train_model", it is
            imported only if it is to run: taking earlier results needs no TensorFlow.
        inputs: KFP artifacts, or lists of them, by argument.
        outputs: KFP artifacts by argument; they get the metadata, their step's key and its seconds.
        settings: plain values by argument, part of the key.
        folders: folders outside the pipeline by argument; their files' names, sizes and times are part of the key.
        scratch: whether the function takes one more argument `scratch`: a folder that outlives a failure, or None where
            there is none.

    Raises:
        Exception: what `function` raises; nothing is recorded then.
    """
    inputs, settings, folders = inputs or {}, settings or {}, folders or {}
    key = _key(name, inputs, settings, folders)
    store = Path(os.environ[STEPS_VARIABLE]) if STEPS_VARIABLE in os.environ else None
    record = None if store is None else store / f"{name}-{key}.json"
    started = time.time()
    done = None if record is None else _usable(record)
    if done is not None:
        print(f"{name}: finished in an earlier run, which took {done['seconds']:.0f} s; taking its results", flush=True)
        for output, facts in done["outputs"].items():
            _copy(Path(facts["path"]), Path(outputs[output].path))
        metadata, seconds = {output: facts["metadata"] for output, facts in done["outputs"].items()}, done["seconds"]
    else:
        print(f"{name}: started", flush=True)
        paths = {argument: _path(artifact) for argument, artifact in {**inputs, **outputs}.items()}
        work = _scratch(name, key) if scratch else None
        more = {"scratch": None if work is None else str(work)} if scratch else {}
        call = pkgutil.resolve_name(function) if isinstance(function, str) else function
        metadata = call(**paths, **folders, **settings, **more) or {}
        if work is not None:
            shutil.rmtree(work)
        seconds = time.time() - started
        print(f"{name}: finished in {seconds:.0f} s", flush=True)
    for output, artifact in outputs.items():
        artifact.metadata.update(metadata.get(output, {}))
        artifact.metadata.update(step_key=f"{key}/{output}", step_seconds=round(seconds, 2))
    if store is not None and record is not None:
        facts = {o: {"path": a.path, "metadata": dict(metadata.get(o, {}))} for o, a in outputs.items()}
        entry = {"step": name, "key": key, "seconds": seconds, "reused": done is not None, "outputs": facts}
        write_json(record, entry)
        with (store / JOURNAL).open("a", encoding="utf-8") as journal:
            journal.write(json.dumps(entry) + "\n")


def _key(name: str, inputs: Mapping[str, Any], settings: Mapping[str, Any], folders: Mapping[str, str]) -> str:
    facts = {
        "name": name,
        "settings": dict(settings),
        "inputs": {argument: _identity(artifact) for argument, artifact in inputs.items()},
        "folders": {argument: fingerprint(path) for argument, path in folders.items()},
        "code": code_version(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _scratch(name: str, key: str) -> Path | None:
    if SCRATCH_VARIABLE not in os.environ:
        return None
    folder = Path(os.environ[SCRATCH_VARIABLE]) / f"{name}-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _path(artifact: Any) -> Any:
    return [one.path for one in artifact] if isinstance(artifact, list) else artifact.path


def _identity(artifact: Any) -> Any:
    if isinstance(artifact, list):
        return [_identity(one) for one in artifact]
    return artifact.metadata.get("step_key", artifact.uri)


def fingerprint(folder: str | Path) -> str:
    """Digest of the names, sizes and times of the files in a folder; of the path alone if it is missing."""
    digest = hashlib.sha256(str(folder).encode())
    for path in [Path(folder), *sorted(Path(folder).rglob("*"))]:
        if path.is_file():
            stat = path.stat()
            digest.update(f"{path} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


@cache
def code_version() -> str:
    """Digest of the project's own Python files that a step may run."""
    digest = hashlib.sha256()
    for package in _CODE:
        for path in sorted((_ROOT / package).rglob("*")):
            if path.is_file() and path.suffix in (".py", ".j2", ".css", ".js"):
                digest.update(str(path.relative_to(_ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _usable(record: Path) -> dict[str, Any] | None:
    if not record.is_file():
        return None
    done = read_json(record)
    return done if all(Path(facts["path"]).exists() for facts in done["outputs"].values()) else None


def _copy(source: Path, target: Path) -> None:
    """Hard links where the file system has them: results are never changed after their step."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, copy_function=link_or_copy, dirs_exist_ok=True)
    else:
        link_or_copy(source, target)


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Make `target` a hard link to `source`, or a copy where that is not possible (another file system)."""
    Path(target).unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
