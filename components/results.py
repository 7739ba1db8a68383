"""The results of finished steps in a shared store, by the key of their step: `<store>/<step>-<key>/`.

The file `record.json` appears there last, when everything else is complete. Each run writes into a folder of its own
beside it, so two runs can compute the same step at once: both results are right, and the last record counts.
"""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components import console, storage
from components.faults import shortened
from components.files import sealed, unsealed, write_json

RECORD = "record.json"


class Results:
    """The results of one step.

    Args:
        store: a folder on a volume that all steps mount, or a URL.
        step: the name of the step.
        key: the key of the step, see `components.resume`.
        run: the ID of the run.
    """

    def __init__(self, store: str, step: str, key: str, run: str):
        self._folder = storage.join(store, f"{step}-{key}")
        self._run, self._step = run, step
        self._work = Path(tempfile.mkdtemp(prefix=f"{step}-")) if storage.is_url(store) else None

    def finished(self) -> dict[str, Any] | None:
        """The record of an earlier run; None if there is no record, or one of its results no longer exists.

        The record has `seconds`, and for each output its `location`, its `metadata` and whether it was `made`.
        """
        place = storage.join(self._folder, RECORD)
        found = storage.read_json(place)
        if found is None:
            return None
        try:
            record = unsealed(found)
        except ValueError as error:
            console.note(self._step, f"{place} cannot be used ({error}), so this step runs again")
            return None
        there = all(storage.exists(facts["location"]) for facts in record["outputs"].values() if facts["made"])
        return record if there else None

    def target(self, output: str) -> str:
        """The path at which the step writes an output."""
        if self._work is not None:
            return str(self._work / output)
        storage.writable(Path(self._location("")).parent)
        Path(self._location(output)).parent.mkdir(exist_ok=True)
        return self._location(output)

    @contextmanager
    def live(self, output: str, folder: str) -> Iterator[None]:
        """Upload a folder of an output, such as that of the logs, again and again while the step writes it.

        TensorFlow opens `s3://` only with TensorFlow I/O, which has no build for current versions, and its log writer
        appends, which no object store supports. So the files are written locally, and uploaded whenever they have
        grown; a reader of the logs waits for the rest of a truncated record. The files that an earlier attempt has
        uploaded are downloaded first.
        """
        if self._work is None:
            yield
            return
        place = storage.join(self._location(output), folder)
        console.note(self._step, f"{folder} are kept at {place} while this step runs")
        with storage.mirrored(place, self._work / output / folder):
            yield

    def finish(self, metadata: Mapping[str, Mapping[str, Any]], outputs: list[str], seconds: float) -> dict[str, Any]:
        """Record what the step has written, and return the record, as `finished` does."""
        facts = {}
        for output in outputs:
            made = Path(self.target(output)).exists()
            if made and self._work is not None:
                storage.upload(self._work / output, self._location(output))
            facts[output] = {
                "location": self._location(output),
                "metadata": dict(metadata.get(output, {})),
                "made": made,
            }
        record = {"seconds": seconds, "run": self._run, "outputs": facts}
        storage.write_json(storage.join(self._folder, RECORD), sealed(record))
        return record

    def deliver(self, record: Mapping[str, Any], output: str, artifact: str, *, by_reference: bool) -> str:
        """Give KFP an output, as a copy or as a reference to its place, and return that place."""
        location = record["outputs"][output]["location"]
        if by_reference:
            Path(artifact).mkdir(parents=True, exist_ok=True)
            write_json(Path(artifact) / storage.REFERENCE, {"location": location})
            return location
        if not record["outputs"][output]["made"]:
            return location
        here = self._work is not None and (self._work / output).exists()
        source = Path(self.target(output)) if here else storage.local(location)
        Path(artifact).parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, artifact, dirs_exist_ok=True)
        else:
            shutil.copyfile(source, artifact)
        return location

    def close(self) -> None:
        """Remove local files that were only needed for the upload."""
        if self._work is not None:
            shutil.rmtree(self._work, ignore_errors=True)

    def _location(self, output: str) -> str:
        return storage.join(self._folder, self._run, output)


def located(artifact: str) -> str:
    """The path or URL of the files of an artifact: its own path, or the place to which it refers.

    Raises:
        StorageError: if the file that refers to another place is damaged.
    """
    path = Path(artifact) / storage.REFERENCE
    if not path.exists():
        return artifact
    reference = storage.read_json(str(path))
    location = reference.get("location") if isinstance(reference, dict) else None
    if not isinstance(location, str) or not location:
        raise storage.StorageError(
            f"{path}: expected JSON with the location to which the step has written its results. Received: "
            f"{shortened(reference)}. The file is damaged: run the step again that made this artifact."
        )
    return location
