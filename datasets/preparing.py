"""Build a data set of cases once, and recognise it as long as its files are the same."""

import math
import shutil
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from datasets.building import build
from datasets.case_builder import CaseBuilder, CaseConfig, sources
from datasets.cases import OtherSourcesError
from datasets.conversion import AnyCase
from datasets.locking import BuildInProgressError
from datasets.origins import Origin
from datasets.progress import Tell
from datasets.publishing import nearby, published
from keras_spatial._paths import fault_of_name, printable
from keras_spatial.data.opening import StoreError, named, open_builder
from keras_spatial.volumes import FileNameError, Limits

TFRECORD, ARRAY_RECORD = "tfrecord", "array_record"


def check_arguments(data_dir: str | Path, on_other_sources: str, file_format: str = TFRECORD) -> None:
    """Raise ValueError or FileNameError for arguments of `prepare` that no data set can have."""
    if file_format not in (TFRECORD, ARRAY_RECORD):
        raise ValueError(f"file_format: expected {TFRECORD!r} or {ARRAY_RECORD!r}. Received: {file_format!r}")
    if on_other_sources not in ("raise", "rebuild"):
        raise ValueError(f'on_other_sources: expected "raise" or "rebuild". Received: {on_other_sources!r}')
    fault = fault_of_name(data_dir)
    if fault:
        raise FileNameError(f"{printable(data_dir)}: give another data_dir. Received: {fault}")


def prepare(
    kind: type[CaseBuilder],
    config: CaseConfig,
    origin: Origin,
    data_dir: str | Path,
    *,
    beam_options: list[str] | None,
    limits: Limits | None,
    on_other_sources: str,
    tell: Tell | None = None,
    file_format: str = TFRECORD,
    work: str | Path | None = None,
) -> CaseBuilder:
    """Build a data set of cases unless it exists, and return its builder.

    Args:
        kind: the class of the builder.
        config: the configuration of the data set.
        origin: the user's files.
        data_dir, beam_options, limits, on_other_sources, tell, file_format, work: as for `datasets.lits.prepare`.

    Raises:
        VolumeError, OtherSourcesError, BuildInProgressError, StoreError, StorageError: as for `datasets.lits.prepare`.
    """
    with published(data_dir, (kind.name, config.name, str(kind.VERSION))) as publication:
        builder, new = _prepare(
            kind, config, origin, nearby(data_dir), beam_options=beam_options, limits=limits,
            on_other_sources=on_other_sources, tell=tell, file_format=file_format,
            work=None if work is None else Path(work),
        )  # fmt: skip
    # Only now, because an upload may fail. A folder that the caller gave is the caller's, who may have to store more.
    # A data set that was downloaded may also have been attempted here before, and published by another machine since.
    if work is None and (new or publication.uploaded or publication.downloaded):
        # Another process that builds from the same cases removes them when it has finished.
        with suppress(BuildInProgressError), builder.ownership():
            _remove_converted(builder)
    return builder


def _prepare(
    kind: type[CaseBuilder],
    config: CaseConfig,
    origin: Origin,
    data_dir: Path,
    *,
    beam_options: list[str] | None,
    limits: Limits | None,
    on_other_sources: str,
    tell: Tell | None,
    file_format: str,
    work: Path | None,
) -> tuple[CaseBuilder, bool]:
    """As `prepare`, in a folder of this machine; also returns whether the data set was not there before."""
    builder = _open(kind, config, data_dir)
    builder.limits, builder.tell, builder.origin, builder.work = limits, tell, origin, work
    if builder.data_path.exists():
        different = _differences(builder, file_format)
        if not different:
            return builder, False
        if on_other_sources == "raise":
            raise OtherSourcesError(
                f"{builder.data_path}: this data set was built from other files, or with another description of them; "
                'give another data_dir, or pass on_other_sources="rebuild" to build it again. Received: '
                f"{'; '.join(different)}"
            )
        return _rebuild(builder, data_dir, beam_options, file_format), True
    with origin.named():
        # For a missing folder TFDS says nothing more than that.
        builder.find_cases(str(origin.folder))
    with builder.ownership():
        build(builder, origin.location, beam_options, file_format)
        built = bool(cast(dict, builder.info.metadata)["sources"])
    if not built:
        # Another process may have built it in the meantime. If this one held the locks at its end, it has left the
        # converted cases to this one.
        found, _ = _prepare(
            kind, config, origin, data_dir, beam_options=beam_options, limits=limits, on_other_sources="raise",
            tell=None, file_format=file_format, work=work,
        )  # fmt: skip
        return found, True
    return builder, True


def _rebuild(
    builder: CaseBuilder,
    data_dir: Path,
    beam_options: list[str] | None,
    file_format: str,
) -> CaseBuilder:
    """Build a data set again beside the old one, which remains if that fails, and exchange the two."""
    kind, config, path = type(builder), builder.config, Path(builder.data_path)
    aside = path.parents[1] / f".rebuild-{config.name}"
    with builder.ownership():
        # Remove what a killed attempt has left.
        shutil.rmtree(aside, ignore_errors=True)
        new = kind(config=config, data_dir=str(aside))
        new.limits, new.tell, new.origin, new.work = builder.limits, builder.tell, builder.origin, builder.work
        new.home, new.owned = builder.shared, True
        try:
            build(new, builder.origin.location, beam_options, file_format)
            _exchange(path, Path(new.data_path))
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    result = _open(kind, config, data_dir)
    result.limits, result.tell, result.origin = builder.limits, builder.tell, builder.origin
    return result


def _exchange(old: Path, new: Path) -> None:
    """Replace a data set with another one, so that no reader ever finds half of either."""
    aside = old.with_name(f".old-{uuid.uuid4().hex}")
    old.rename(aside)
    try:
        new.rename(old)
    except OSError:
        aside.rename(old)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _remove_converted(builder: CaseBuilder) -> None:
    """Remove the converted cases once they are stored. Only their owner may, because other splits are built from
    them, too.
    """
    shutil.rmtree(builder.target(builder.accepted).folder, ignore_errors=True)


def _open(kind: type[CaseBuilder], config: CaseConfig, data_dir: Path) -> CaseBuilder:
    folder = data_dir / kind.name / config.name / str(kind.VERSION)
    if folder.exists():
        # This builder reads everything from disk; the data set's own class takes some of it from its code instead.
        open_builder(folder)
    with named(folder):
        return kind(config=config, data_dir=str(data_dir))


def _differences(builder: CaseBuilder, file_format: str) -> list[str]:
    """How the data set on disk differs from the one that is asked for; empty if they are the same."""
    metadata = cast(dict, builder.info.metadata or {})
    # Every data set was built from something, so metadata without sources are only the defaults in the code.
    if not all(isinstance(metadata.get(name), dict) and metadata[name] for name in ("sources", "task")):
        raise StoreError(
            f"{builder.data_path}: metadata.json is missing or damaged; delete the folder and build it again. "
            f"Received: {sorted(metadata)}"
        )
    found = []
    with builder.origin.named():
        changed = _changed(builder, metadata["sources"], builder.find_cases(str(builder.origin.folder)))
    if changed:
        found.append(f"new, changed or missing cases {changed}")
    stored_format = cast(Any, builder.info.file_format).value
    if stored_format != file_format:
        found.append(f"file_format: {stored_format!r} in the data set, {file_format!r} now")
    stored, wanted = metadata["task"], builder.task.as_dict()
    found += [
        f"{name}: {stored.get(name)!r:.300} in the data set, {value!r:.300} now"
        for name, value in wanted.items()
        if name != "largest" and not _same(stored.get(name), value)
    ]
    return found + _other_limits(builder, metadata)


def _changed(builder: CaseBuilder, expected: dict[str, list[str]], cases: Sequence[AnyCase]) -> list[str]:
    """The names of the cases whose files are not those from which the data set was built."""
    digests = builder.digests()
    received = sources(cases, digests)
    digests.save()
    return sorted(name for name in {*expected, *received} if expected.get(name) != received.get(name))


def _other_limits(builder: CaseBuilder, metadata: dict[str, Any]) -> list[str]:
    """The limits under which other cases might have been left out. Data sets of earlier versions do not record
    theirs.
    """
    wanted = builder.accepted
    try:
        stored = Limits.of(metadata["limits"])
    except (KeyError, TypeError, ValueError):
        return []
    if stored == wanted or (not metadata.get("bad_cases") and wanted.covers(stored)):
        return []
    return [
        f"limits: {name}={value!r} in the data set, {wanted.as_dict()[name]!r} now"
        for name, value in stored.as_dict().items()
        if value != wanted.as_dict()[name]
    ]


def _same(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal, except for what the order of a sum may change in numbers."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-6)
    return one == other
