"""Building a data set of cases once, and knowing it again as long as its files are the same."""

import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from datasets.building import build
from datasets.case_builder import CaseBuilder, CaseConfig, sources
from datasets.cases import OtherSourcesError
from datasets.conversion import AnyCase
from datasets.progress import Tell
from keras_spatial._paths import fault_of_name, printable
from keras_spatial.data.opening import StoreError, named, open_builder
from keras_spatial.volumes import FileNameError, Limits


def check_arguments(data_dir: str | Path, on_other_sources: str) -> None:
    """Raise ValueError or FileNameError for arguments of `prepare` that no data set can have."""
    if on_other_sources not in ("raise", "rebuild"):
        raise ValueError(f'on_other_sources: expected "raise" or "rebuild". Received: {on_other_sources!r}')
    fault = fault_of_name(data_dir)
    if fault:
        raise FileNameError(f"{printable(data_dir)}: give another data_dir. Received: {fault}")


def prepare(
    kind: type[CaseBuilder],
    config: CaseConfig,
    manual_dir: str | Path,
    data_dir: str | Path,
    *,
    beam_options: list[str] | None,
    limits: Limits | None,
    on_other_sources: str,
    tell: Tell | None = None,
) -> CaseBuilder:
    """Build a data set of cases unless it is there, and return its builder.

    Args:
        kind: class of the builder.
        config: The config of the data set.
        manual_dir, data_dir, beam_options, limits, on_other_sources, tell: as `datasets.lits.prepare`.

    Raises:
        VolumeError, OtherSourcesError, BuildInProgressError, StoreError: as `datasets.lits.prepare`.
    """
    builder = _open(kind, config, data_dir)
    if builder.data_path.exists():
        changed = _changed(builder, builder.find_cases(str(manual_dir)))
        if not changed:
            return builder
        if on_other_sources == "raise":
            raise OtherSourcesError(
                f"{builder.data_path}: this data set was built of other files; give another data_dir, or pass "
                f'on_other_sources="rebuild" to build it again. Received: new, changed or missing cases {changed}'
            )
        _remove(Path(builder.data_path))
        builder = _open(kind, config, data_dir)
    builder.limits, builder.tell = limits, tell
    build(builder, manual_dir, beam_options)
    if not cast(dict, builder.info.metadata)["sources"]:
        # Another process has built it since it was looked for.
        return prepare(
            kind, config, manual_dir, data_dir, beam_options=beam_options, limits=limits, on_other_sources="raise"
        )
    shutil.rmtree(builder.target(limits or Limits.current()).folder, ignore_errors=True)
    return builder


def _open(kind: type[CaseBuilder], config: CaseConfig, data_dir: str | Path) -> CaseBuilder:
    folder = Path(data_dir) / kind.name / config.name / str(kind.VERSION)
    if folder.exists():
        # This one reads all that is on disk, where the data set's own class takes some of it from its code.
        open_builder(folder)
    with named(folder):
        return kind(config=config, data_dir=str(data_dir))


def _changed(builder: CaseBuilder, cases: Sequence[AnyCase]) -> list[str]:
    """Names of the cases whose files are not those that the data set was built of."""
    metadata = cast(dict, builder.info.metadata or {})
    # Every data set was built of something, so without sources there are only the defaults of the code.
    if not (isinstance(metadata.get("sources"), dict) and metadata["sources"]):
        raise StoreError(
            f"{builder.data_path}: metadata.json is missing or damaged; delete the folder and build it again. "
            f"Received: {sorted(metadata)}"
        )
    digests = builder.digests()
    received = sources(cases, digests)
    digests.save()
    expected = metadata["sources"]
    return sorted(name for name in {*expected, *received} if expected.get(name) != received.get(name))


def _remove(folder: Path) -> None:
    """Remove a data set; nobody finds half of it."""
    aside = folder.with_name(f".old-{uuid.uuid4().hex}")
    folder.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)
