"""Check every voxel of every case before anything is computed from it."""

import contextlib
import csv
import html
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib

from components import console
from components.cases import INDEX, Folder, open_folder, source_of
from components.files import read_json, write_json
from datasets.cases import BadCase, BadCasesError
from datasets.conversion import AnyCase, changed
from datasets.decathlon.layout import DESCRIPTION
from datasets.sources import digest, identity
from keras_spatial._paths import regular
from keras_spatial.volumes import Task, VolumeError


def ingest_volumes(
    data: str,
    cases: str,
    quarantine: str,
    *,
    on_bad_case: str = "skip",
    task_file: str = "",
    task: str = "",
    by_reference: bool = False,
) -> Mapping[str, Mapping[str, Any]]:
    """Check the cases of a folder, and collect the usable ones.

    Args:
        data: the folder with volume-N.nii[.gz] and segmentation-N.nii[.gz], or with `dataset.json` as in the Decathlon
            and nnU-Net, or with the folders `images` and `labels`, by path or URL. From a URL, one case at a time is
            downloaded.
        cases: the folder to make, with copies of the usable cases' files and `index.json` with their digests. The
            copies share the disk space of the originals if the file system can clone files. They are not links, because
            the checked files must not change when an original is edited. Cases with DICOM files, whose headers name the
            patient, are converted to NIfTI files. Other files at a URL are not copied, and with `by_reference` no file
            is: the index says where the files are and what was checked, and a step refuses a file that has been edited
            since.
        quarantine: the HTML file to write, with a table of the bad cases; the same table is beside the index as CSV.
        on_bad_case: "skip" to leave bad cases out, or "raise" to fail after all cases have been checked.
        task_file: for a plain folder, the file that names its channels and labels; see `open_folder`.
        task: for a plain folder, "lits" instead of that file.
        by_reference: whether every step sees the folder `data` at this path, so that nothing has to be copied.

    Returns:
        The metadata of both outputs: the numbers of usable and bad cases.

    Raises:
        VolumeError: if no case is usable, or one is bad and `on_bad_case` is "raise".
        StorageError: if the store refuses or cannot be reached.
    """
    if on_bad_case not in ("skip", "raise"):
        raise ValueError(f'on_bad_case: expected "skip" or "raise". Received: {on_bad_case!r}')
    target = Path(cases)
    target.mkdir(parents=True, exist_ok=True)
    with open_folder(data, task_file or task, by_reference=by_reference) as folder:
        return _ingest(folder, target, Path(quarantine), on_bad_case)


def _ingest(folder: Folder, target: Path, quarantine: Path, on_bad_case: str) -> Mapping[str, Mapping[str, Any]]:
    data = folder.origin.location
    digests, bad = _collect(folder, target)
    _write_table(quarantine, target / "quarantine.csv", len(digests), bad)
    if bad and (on_bad_case == "raise" or not digests):
        lines = "\n".join(f"  {b.case}: {b.error}: {b.reason}" for b in bad)
        remedy = "Repair or remove them" + (", or set on_bad_case=skip" if digests else "")
        raise BadCasesError(f"{data}: {len(bad)} of {len(digests) + len(bad)} cases cannot be used. {remedy}:\n{lines}")
    index = {"cases": list(digests), "bad": [vars(b) for b in bad], "sha256": {}}
    for files in digests.values():
        index["sha256"].update(files)
    if folder.referred:
        index |= source_of(folder, index["sha256"])
    if folder.numbers:
        index["numbers"] = dict(folder.numbers)
    elif folder.reader is not None:
        _write_description(folder, folder.reader.task, target, list(digests))
    write_json(target / INDEX, index)
    counts = {"usable": len(digests), "bad": len(bad)}
    left_out = f"; {console.count(len(bad), 'bad case')} left out" if bad else ""
    console.result("ingest", f"{console.count(len(digests), 'usable case')}{left_out}")
    return {"cases": {**counts, "source": data}, "quarantine": counts}


def _write_description(folder: Folder, task: Task, target: Path, usable: list[int | str]) -> None:
    """Write the `dataset.json` of the usable cases; if it lists cases, the bad ones are removed from the list."""
    given = folder.path / DESCRIPTION
    description = read_json(given) if given.is_file() else {}
    if isinstance(description.get("training"), list):
        names = [folder.names(case) for case in folder.cases if case.name in usable]
        description["training"] = [{"image": f"./{image}", "label": f"./{label}"} for image, label in names]
    elif not given.is_file():
        description = {
            "name": task.name,
            "channel_names": {str(number): channel.name for number, channel in enumerate(task.channels)},
            "labels": {name: number for number, name in enumerate(task.labels)},
        }
    write_json(target / DESCRIPTION, description)


def _collect(folder: Folder, target: Path) -> tuple[dict[int | str, dict[str, str]], list[BadCase]]:
    """Check and keep each case. Returns the digests of the good cases' files by number or name, and the bad cases."""
    good: dict[int | str, dict[str, str]] = {}
    bad: list[BadCase] = []
    found = folder.cases
    for number, case in enumerate(found, start=1):
        try:
            with folder.near(case) as near:
                files = _kept(folder, case, near, target)
        except VolumeError as error:
            bad.append(BadCase.of(case, error))
            console.note("ingest", f"{case.name} cannot be used: {bad[-1].reason}")
        else:
            good[folder.numbers.get(case.name, getattr(case, "number", case.name))] = files
        console.progress("ingest", number, len(found), f"cases checked, {case.name} the last")
    return good, bad


def _kept(folder: Folder, case: AnyCase, near: AnyCase, target: Path) -> dict[str, str]:
    """Check a case, and copy or convert its files unless later steps read them from the object store.

    Args:
        folder: the folder of the case.
        case: the case with the paths by which it was found.
        near: the case with its files on this machine.
        target: the folder for the files.

    Returns:
        The digests of the files, by their names in the folder of checked cases.

    Raises:
        VolumeError: if the case cannot be used, or a ChangedCaseError if a file changes while it is checked. No file of
            the case is left in the target then.
    """
    before = [identity(path) for path in near.files]
    volumes, labels = folder.check(near)
    names = folder.names(case)
    if folder.referred:
        kept = near.files
    else:
        kept = [target / name for name in names]
        for path in kept:
            path.parent.mkdir(parents=True, exist_ok=True)
        if folder.converted(case):
            for path, volume in zip(kept, [*volumes, labels], strict=True):
                nib.save(nib.Nifti1Image(volume.array, volume.affine), path)
        else:
            for path, source in zip(kept, near.files, strict=True):
                clone_or_copy(source, path)
    digests = {name: digest(path) for name, path in zip(names, kept, strict=True)}
    if [identity(path) for path in near.files] != before:
        for name in names:
            (target / name).unlink(missing_ok=True)
        raise changed(case)
    return digests


def clone_or_copy(source: Path, target: Path) -> None:
    """Copy a file. On Btrfs and XFS, both files share their blocks until one of them is changed.

    The copy is always a file of its own, and never a link.
    """
    target.unlink(missing_ok=True)
    with regular(source).open("rb") as reading, target.open("xb") as writing:
        # Between some file systems, and on some network file systems, the kernel refuses to copy, or copies nothing.
        with contextlib.suppress(OSError):
            while os.copy_file_range(reading.fileno(), writing.fileno(), 1 << 30):
                pass
        if os.fstat(writing.fileno()).st_size != os.fstat(reading.fileno()).st_size:
            reading.seek(0)
            writing.seek(0)
            writing.truncate()
            shutil.copyfileobj(reading, writing, 1 << 20)


def _write_table(page: Path, table: Path, usable: int, bad: list[BadCase]) -> None:
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "error", "reason"])
        writer.writerows([b.case, b.error, b.reason] for b in bad)
    rows = "".join(
        f"<tr><td>{html.escape(b.case)}</td><td>{html.escape(b.error)}</td><td>{html.escape(b.reason)}</td></tr>\n"
        for b in bad
    )
    body = f"<table><tr><th>case</th><th>error</th><th>reason</th></tr>\n{rows}</table>" if bad else ""
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Quarantine</title>'
        "<style>body{font-family:sans-serif}td,th{border:1px solid #999;padding:.3em;text-align:left}</style>"
        f"<h1>Cases put aside</h1><p>{usable} usable, {len(bad)} bad.</p>{body}</html>\n",
        encoding="utf-8",
    )
