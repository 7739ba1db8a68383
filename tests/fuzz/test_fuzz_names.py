"""Any file name is accepted, or refused with a named error, and any text is shown unchanged."""

import os
import re
from pathlib import Path

import nibabel as nib
import numpy as np
from fuzzing import explore
from hypothesis import strategies as st

from components.report import page, plots
from components.report.report import markdown
from datasets.lits.cases import find_cases
from keras_spatial import evaluation as ev
from keras_spatial._paths import fault_of_name, partial, printable
from keras_spatial.volumes import Volume, VolumeError, read_volume, write_labels

LABELS = np.zeros((2, 2, 2), np.uint8)
VOLUME = Volume(LABELS, np.eye(4), nib.Nifti1Header(), "v")
# Names as Linux has them: any bytes but "/" and NUL, which Python shows with lone surrogates.
NAMES = st.one_of(
    st.binary(min_size=1, max_size=260).map(lambda b: os.fsdecode(b.replace(b"/", b"_").replace(b"\0", b"_"))),
    st.text(min_size=1, max_size=20).map(lambda t: t.replace("/", "_")),
    st.builds(lambda c, n: c * n, st.sampled_from(["x", "é", "\U0001f600", " ", "\n", "\udcff"]), st.integers(1, 300)),
    st.sampled_from([".", "..", "~", "-", "con", "{case}", "$x^{$", "{{$}}", "a\0b", "%s", "*"]),
)


def test_labels_are_written_under_a_name_or_it_is_refused(tmp_path):
    def check(name):
        path = tmp_path / f"{name}.nii"
        try:
            written = write_labels(path, LABELS, VOLUME)
        except VolumeError as error:
            str(error).encode("utf-8")
            assert fault_of_name(path)
        else:
            assert list(tmp_path.iterdir()) == [written]
            assert np.array_equal(read_volume(written).array, LABELS)
            written.unlink()
        assert list(tmp_path.iterdir()) == []

    explore(check, examples=150, name=NAMES)


def test_a_missing_file_and_a_folder_of_any_name_are_named(tmp_path):
    def check(name):
        for read in (read_volume, find_cases):
            try:
                read(tmp_path / name)
            except VolumeError as error:
                str(error).encode("utf-8")
            else:
                raise AssertionError(f"{read} took {name!r}")

    explore(check, examples=150, name=NAMES)


def test_a_temporary_name_fits_wherever_the_name_fits():
    def check(name, ending):
        path = partial(Path("/folder") / (name + ending))
        assert len(os.fsencode(path.name)) <= 32
        assert path.name.endswith(ending)
        assert printable(path) == str(path)

    explore(check, examples=100, name=NAMES, ending=st.sampled_from([".nii", ".nii.gz", ".zarr"]))


TEXTS = st.one_of(
    st.text(max_size=40),
    st.lists(st.sampled_from(list("$^_{}<>&|#x`\"\n\\") + ["\\frac", "script"]), max_size=20).map("".join),
    NAMES,
)  # fmt: skip


def test_plots_show_any_name():
    def check(name):
        metrics = [ev.evaluate_case(LABELS, LABELS, (1, 1, 1), case=name)]
        for svg in (plots.dice_per_case(metrics), *plots.curves({name: [1.0, 0.5]})):
            assert svg.startswith("<svg")
            assert re.search(r"[\0-\x08\x0b\x0c\x0e-\x1f]", svg) is None

    explore(check, examples=12, name=TEXTS)


def test_a_page_shows_any_title(tmp_path):
    metrics = [ev.evaluate_case(LABELS, LABELS, (1, 1, 1), case="volume-0")]

    def check(title):
        path = page.write_report(tmp_path / "report.html", page.RunReport(title, metrics, notes=[title], mesh=title))
        text = path.read_text(encoding="utf-8")
        heading = re.search(r"(?s)<h1>(.*?)</h1>", text)[1]
        assert "<" not in heading and ">" not in heading
        summary = markdown(title, {"dice": {"liver": 0.5}, "mesh": title, "layout": title}, [title])
        assert re.search(r"(?<!\\)(?:\\\\)*[<`$]", summary.partition("\n")[0]) is None

    explore(check, examples=10, title=TEXTS)
