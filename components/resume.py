"""Run a step, or take its results from an earlier run of the same step with the same inputs.

KFP's cache does not know the project code that a component imports, and would return stale results. So each step has a
key: the digest of its name, its settings, the project's code, the limits for what is read, and the keys of the steps
that have made its inputs. Finished steps are recorded under their key in the folder `KERAS_SPATIAL_STEPS`. Without this
variable a step is not recorded, as on a cluster, where KFP's own cache has this task.

A record has the size and the digest of every file of the results, and a digest of its own. A record that cannot be
read, or whose content has changed, is set aside. If the results differ from their record, the step runs again.

On a cluster, `KERAS_SPATIAL_STORE` is a folder of a shared volume or the URL of an object store, see
`components.results`. The results are kept there under the same key. Large ones are passed on by reference, and a run
takes from the store what an earlier run has computed.

A step that was interrupted can resume: it gets a folder of its own, named after its run and its key, below
`KERAS_SPATIAL_SCRATCH`. The folder is removed when the step has finished.
"""

import contextlib
import errno
import hashlib
import importlib.util
import json
import os
import pkgutil
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

from components import console, owner, pure, results, storage
from components.files import append_json, read_json, sealed, unsealed, write_json
from datasets.object_store import path_of

STEPS_VARIABLE = "KERAS_SPATIAL_STEPS"
SCRATCH_VARIABLE = "KERAS_SPATIAL_SCRATCH"
STORE_VARIABLE = "KERAS_SPATIAL_STORE"
RUN_VARIABLE = "KERAS_SPATIAL_RUN"
CODE_VARIABLE = "KERAS_SPATIAL_CODE"
JOURNAL = "journal.jsonl"

_CODE = ("components", "datasets", "keras_spatial")
_READERS = 4


class OtherCodeError(RuntimeError):
    """The code of the image is not the code from which the package was compiled."""


Metadata = Mapping[str, Mapping[str, Any]]


def step(
    name: str,
    function: str | Callable[..., Metadata | None],
    *,
    inputs: Mapping[str, Any] | None = None,
    outputs: Mapping[str, Any],
    settings: Mapping[str, Any] | None = None,
    folders: Mapping[str, str] | None = None,
    imported: Mapping[str, Any] | None = None,
    code: Collection[str] = (),
    scratch: bool = False,
    scratch_url: bool = False,
    stored: Collection[str] = (),
    remote: Collection[str] = (),
    live: Mapping[str, str] | None = None,
) -> None:
    """Call a function with paths and settings, or take earlier results, and describe the outputs.

    Args:
        name: the name of the step, for the log and the record.
        function: a function that takes the paths of `inputs` and `outputs`, the `settings` and the `folders` as keyword
            arguments, and returns the metadata of each output by its argument, or None. If it is text, such as
            "components.train.train:train_model", it is imported only if it has to run, so that taking earlier results
            needs no TensorFlow.
        inputs: KFP artifacts, or lists of them, by argument. The keys of the steps that have made them, or the digests
            of their files if KFP has imported them, are part of the key.
        outputs: KFP artifacts by argument, which get the metadata, the key of the step and its duration in seconds.
        settings: plain values by argument, which are part of the key.
        folders: the paths or URLs of folders and files outside the pipeline, by argument; "" for none. The names and
            digests of their files, or the store's versions for a URL, are part of the key.
        imported: artifacts that KFP has imported from a URL in `folders` and that replace it, by argument; None for an
            argument without one.
        code: further files with code of the user, whose digests are part of the key. The function does not get them.
        scratch: whether the function also takes an argument `scratch`: a folder that is kept after a failure, or None.
        scratch_url: whether that folder may be a URL. Otherwise the function gets a local folder, whose files are
            mirrored to the URL.
        stored: outputs that are too large to be copied from step to step. If there is a store of results, their
            artifacts are references to it.
        remote: inputs and folders in an object store that the function takes as URLs; others are downloaded.
        live: the folder in an output that is uploaded to an object store while the function writes it, by the argument
            of the output.

    Raises:
        OtherCodeError: if the code of the image is not the code from which the package was compiled.
        Exception: whatever the function raises; nothing is recorded then.
    """
    owner.follow()
    settings = settings or {}
    given = {argument: artifact for argument, artifact in (imported or {}).items() if artifact is not None}
    inputs = {**(inputs or {}), **given}
    folders = {argument: place for argument, place in (folders or {}).items() if argument not in given}
    check_code()
    key = _key(name, inputs, settings, folders, code)
    shared = _results(name, key)
    records = Path(os.environ[STEPS_VARIABLE]) if STEPS_VARIABLE in os.environ else None
    record = None if records is None else records / f"{name}-{key}.json"
    started = time.monotonic()
    if shared is not None:
        done = shared.finished()
    else:
        done = None if record is None else _usable(record, name)
    earlier = done
    if done is not None:
        took = console.readable(done["seconds"])
        console.result(name, f"taken from an earlier run, in which this step took {took}")
        metadata, seconds = {output: facts["metadata"] for output, facts in done["outputs"].items()}, done["seconds"]
        if shared is None:
            for output, facts in done["outputs"].items():
                _copy(Path(facts["path"]), Path(outputs[output].path))
    else:
        console.started(name)
        targets = {o: shared.target(o) if shared else artifact.path for o, artifact in outputs.items()}
        paths = {argument: _path(artifact, argument in remote) for argument, artifact in inputs.items()}
        near = {a: place if a in remote or not place else str(storage.local(place)) for a, place in folders.items()}
        call = pkgutil.resolve_name(function) if isinstance(function, str) else function
        with _scratch(name, key, urls=scratch_url) if scratch else contextlib.nullcontext() as work:
            more = {"scratch": work} if scratch else {}
            with contextlib.ExitStack() as shown:
                if shared is not None:
                    for output, folder in (live or {}).items():
                        shown.enter_context(shared.live(output, folder))
                metadata = call(**paths, **targets, **near, **settings, **more) or {}
            seconds = time.monotonic() - started
            # This comes before the scratch folder is removed, so that a store that fails now does not cost a training.
            if shared is not None:
                done = shared.finish(metadata, list(outputs), seconds)
        console.finished(name, seconds)
    for output, artifact in outputs.items():
        artifact.metadata.update(metadata.get(output, {}))
        artifact.metadata.update(step_key=f"{key}/{output}", step_seconds=round(seconds, 2))
        if shared is not None and done is not None:
            location = shared.deliver(done, output, artifact.path, by_reference=output in stored)
            artifact.metadata.update(location=location)
    if shared is not None:
        shared.close()
    elif records is not None and record is not None:
        facts = {o: {"path": a.path, "metadata": dict(metadata.get(o, {}))} for o, a in outputs.items()}
        entry = {"step": name, "key": key, "seconds": seconds, "reused": earlier is not None, "outputs": facts}
        if earlier is None:
            files = {output: contents(artifact.path) for output, artifact in outputs.items()}
        else:
            files = {output: earlier["outputs"][output]["files"] for output in outputs}
        write_json(record, sealed({**entry, "outputs": {o: {**facts[o], "files": files[o]} for o in outputs}}))
        append_json(records / JOURNAL, entry)


def seconds_of(artifact: Any) -> float:
    """The seconds that the step that made an artifact took; 0 if the artifact's metadata do not say."""
    seconds = artifact.metadata.get("step_seconds")
    usable = isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 <= seconds < 1e9
    return float(seconds) if usable else 0.0


def check_code() -> None:
    """Make sure that this code is the code from which the package was compiled, whose digest is part of all keys.

    Raises:
        OtherCodeError: if it is not.
    """
    compiled = os.environ.get(CODE_VARIABLE)
    if compiled and compiled != code_version():
        raise OtherCodeError(
            f"the package was compiled from code {compiled}, but the image has {code_version()}. Build and push the "
            "image from the checkout that compiles, name it by its digest (@sha256:...), and compile again."
        )


def _results(name: str, key: str) -> results.Results | None:
    if STORE_VARIABLE not in os.environ:
        return None
    return results.Results(os.environ[STORE_VARIABLE], name, key, os.environ.get(RUN_VARIABLE) or "no-run")


def _key(
    name: str,
    inputs: Mapping[str, Any],
    settings: Mapping[str, Any],
    folders: Mapping[str, str],
    code: Collection[str] = (),
) -> str:
    facts = {
        "name": name,
        "settings": dict(settings),
        "inputs": {argument: _identity(artifact) for argument, artifact in inputs.items()},
        "folders": {argument: fingerprint(path) if path else "" for argument, path in folders.items()},
        "code": code_version(),
        "own": [fingerprint(path) for path in code],
        # With other limits, a case that was refused may be accepted.
        "limits": pure.load("volumes/limits").Limits.current().as_dict(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


@contextlib.contextmanager
def _scratch(name: str, key: str, *, urls: bool) -> Iterator[str | None]:
    """A folder that is kept after a failure and removed after success; None if no scratch folder is set."""
    if SCRATCH_VARIABLE not in os.environ:
        yield None
        return
    # The name contains the run, because two runs of the same step at once would write into each other's backups.
    parts = [part for part in (os.environ.get(RUN_VARIABLE), f"{name}-{key}") if part]
    place = storage.join(os.environ[SCRATCH_VARIABLE], *parts)
    if not storage.is_url(place):
        storage.writable(place)
        yield place
    elif urls:
        yield place
    else:
        with tempfile.TemporaryDirectory() as folder, storage.mirrored(place, Path(folder) / "scratch") as near:
            yield str(near)
    storage.remove(place)


def _path(artifact: Any, remote: bool) -> Any:
    if isinstance(artifact, list):
        return [_path(one, remote) for one in artifact]
    # KFP's launcher downloads imported files to this path; its local runner leaves them at their URL.
    here = "step_key" in artifact.metadata or Path(artifact.path).exists()
    location = results.located(artifact.path) if here else artifact.uri
    return location if remote else str(storage.local(location))


def _identity(artifact: Any) -> Any:
    if isinstance(artifact, list):
        return [_identity(one) for one in artifact]
    key = artifact.metadata.get("step_key")
    # An artifact from elsewhere may have any metadata.
    return key if isinstance(key, str) and key else fingerprint(artifact.uri)


def fingerprint(folder: str | Path) -> str:
    """The digest of the names and contents of the files in a folder, or only of the path if nothing is there.

    Times and sizes do not show that a file is the same, because labels are corrected in place, and copied with their
    times. For a URL, the store's versions stand for the contents.
    """
    path = path_of(folder)
    if path is None and storage.is_url(folder):
        return storage.fingerprint(str(folder))
    folder = path or folder
    # Python writes its caches beside the files that it reads.
    files = {name: facts for name, facts in contents(folder).items() if "__pycache__" not in Path(name).parts}
    facts = {"path": str(folder), "files": files}
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def contents(path: str | Path) -> dict[str, tuple[int, str]]:
    """The size in bytes and the SHA-256 of every file in a folder, by its name there, or of a file, by the name "".

    Links to folders are followed, except to folders that are listed under another name, which stands for them.
    """
    path = Path(path)
    if path.is_file():
        files, again = {"": path}, {}
    else:
        found = {str(p.relative_to(path)): p for p in sorted(pure.load("_paths").walk(path))}
        files = {name: p for name, p in found.items() if p.is_file()}
        again = {name: (0, os.path.relpath(p.resolve(), path.resolve())) for name, p in found.items() if p.is_dir()}
    # Threads help, because reading waits for the disk, and the digest is computed without Python's lock.
    with ThreadPoolExecutor(_READERS) as readers:
        return dict(zip(files, readers.map(_size_and_digest, files.values()), strict=True)) | again


def _size_and_digest(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), digest


@cache
def code_version() -> str:
    """The digest of the project's own files that a step may run, which is the same in a checkout and in the image."""
    digest = hashlib.sha256()
    for package in _CODE:
        # The packages are found and not imported: in the image, keras_spatial is an installed package.
        found = importlib.util.find_spec(package)
        [root] = list(found.submodule_search_locations or []) if found else [package]
        for path in sorted(Path(root).rglob("*")):
            if path.is_file() and path.suffix in (".py", ".j2", ".css", ".js"):
                digest.update(f"{package}/{path.relative_to(root)}".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _usable(record: Path, name: str) -> dict[str, Any] | None:
    """The content of a record; None if it cannot be read, or the results have changed since it was written."""
    try:
        done = unsealed(read_json(record))
        recorded = {
            Path(facts["path"]): (
                {file: tuple(found) for file, found in facts["files"].items()},
                dict(facts["metadata"]),
            )
            for facts in done["outputs"].values()
        }
    except FileNotFoundError:
        return None
    except (OSError, RecursionError, ValueError) as error:
        # Other errors of the system, such as missing permissions, say nothing about the record.
        if isinstance(error, OSError) and error.errno not in (errno.EINVAL, errno.EISDIR):
            raise
        aside = owner.set_aside(record)
        console.note(
            name,
            f"the record of an earlier run cannot be read ({type(error).__name__}: {error}) and was renamed to "
            f"{aside.name}",
        )
        return None
    for path, (files, _) in recorded.items():
        found = contents(path)
        if found != files or not path.exists():
            different = sorted(file for file in {*found, *files} if found.get(file) != files.get(file))
            changed = path / different[0] if different else path
            console.note(name, f"{changed} has changed since an earlier run made it, so this step runs again")
            return None
    return done


def _copy(source: Path, target: Path) -> None:
    """Copy results by hard links if possible, because they are never changed after their step."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, copy_function=link_or_copy, dirs_exist_ok=True)
    else:
        link_or_copy(source, target)


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Make `target` a hard link to `source`, or a copy if that is not possible, as between two file systems."""
    Path(target).unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
