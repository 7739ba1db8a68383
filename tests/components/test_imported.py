"""Folders that KFP has imported: a step reads them where the launcher has put them, or at their URL."""

import tempfile

from folders import tree
from kfp import dsl

from components import resume, storage
from components.base import component
from components.ingest.component import ingest_folder
from pipelines import local
from pipelines.parameters import pipeline
from pipelines.resources import Resources
from pipelines.settings import load
from pipelines.shared import begin


def imported_step(imported, **folders):
    """The arguments of a step that reads an imported folder, and the step's key."""
    made, seen = dsl.Artifact(uri=tempfile.mkdtemp()), []
    resume.step("read", lambda **given: seen.append(given), outputs={"made": made}, folders=folders, imported=imported)
    given = seen[0]
    given.pop("made")
    return given, made.metadata["step_key"]


def test_what_kfps_launcher_has_brought_is_read_where_it_is(bucket, folder, tmp_path):
    storage.upload(folder, storage.join(bucket, "corpus"))
    artifact = dsl.Dataset(uri=storage.join(bucket, "corpus"))
    # As the launcher does; here it may not write to /s3.
    artifact.custom_path = str(folder)
    given, key = imported_step({"data": artifact}, data=artifact.uri)
    assert given == {"data": str(folder)}
    storage.write_json(storage.join(bucket, "corpus", "volume-0.nii.gz"), "other")
    assert imported_step({"data": artifact}, data=artifact.uri)[1] != key


def test_what_kfps_local_runner_leaves_at_its_url_is_brought_here(bucket, folder):
    storage.upload(folder, storage.join(bucket, "corpus"))
    given, _ = imported_step({"data": dsl.Dataset(uri=storage.join(bucket, "corpus"))}, data="")
    assert tree(given["data"]) == tree(folder)


def test_without_an_imported_artifact_the_path_counts(folder):
    assert imported_step({"data": None}, data=str(folder))[0] == {"data": str(folder)}


@component
def names_of(data: dsl.Input[dsl.Dataset], names: dsl.Output[dsl.Artifact]):
    """Write down what is in an imported folder."""
    from pathlib import Path

    from components.resume import step

    def write(data, names):
        Path(names).write_text(" ".join(sorted(path.name for path in Path(data).iterdir())))

    step("names", write, inputs={"data": data}, outputs={"names": names})


def test_a_local_run_imports_its_corpus(bucket, folder, tmp_path, recwarn):
    storage.upload(folder, storage.join(bucket, "corpus"))
    settings = load(None, [f"data={bucket}/corpus"])

    @pipeline("first-steps", "The first steps of a pipeline.", settings, (ingest_folder,))
    def first_steps(p):
        start = begin("lits_segmentation", p, settings, Resources(None))
        names_of(data=start.imported["data"])

    [done] = local.run(first_steps, tmp_path / "run")
    assert done.path("names").read_text() == "deep empty volume-0.nii.gz"
    assert not [warning for warning in recwarn if "remote file" in str(warning.message)]
