"""A job of several pods whose folders are in an object store."""

import json
from contextlib import ExitStack
from pathlib import Path

import kubernetes_server as fake
import pytest
from small_training import SETTINGS

from components import storage
from components.jobs.description import Description
from components.jobs.settings import JobSettings
from components.jobs.worker import _near
from components.train_job.train_job import train_in_job
from datasets.object_store import listing


def test_a_job_may_share_a_url_in_place_of_a_volume(bucket, tmp_path):
    """The launching step and the pods share nothing but the store."""
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "cases").write_text("cases")
    scratch = storage.join(bucket, "run-1", "train_job-abc")

    def made(name, body):
        if body["kind"] == "TrainJob":
            job = Description.read(body["spec"]["trainer"]["command"][-1])
            for number in (1, 0):
                pod(job, number == 0)
            storage.write_json(job.facts, {})

    def pod(job, first):
        with _near(job, first) as places:
            dataset, model, work = (places[name] for name in ("dataset", "model", "work"))
            # Training brings only the splits that it reads, and so gets the URL.
            assert storage.read_bytes(storage.join(dataset, "cases")) == b"cases"
            (Path(work) / "backup.npz").write_bytes(b"state")
            Path(model, "logs").mkdir(parents=True, exist_ok=True)
            Path(model, "logs", "events").write_bytes(b"logs" if first else b"")
            facts = dict.fromkeys(("framework", "mesh", "layout", "resolution", "epochs", "parameters", "processes"), 1)
            course = {"history": {"loss": [2.0, 1.0]}, "best": {"epoch": 1, "dice": 0.5}, "seconds": 1.0}
            (Path(model) / "training.json").write_text(json.dumps({**facts, **course, "steps_per_epoch": 1}))

    with fake.running() as server:
        server.created = made
        server.frames = [fake.Frame("Complete")]
        job = JobSettings(kind="TrainJob", nodes=2, image="i", cpu="2", memory="4Gi")
        result = train_in_job(
            str(tmp_path / "dataset"),
            str(tmp_path / "model"),
            job=job.to_json(),
            scratch=scratch,
            api=fake.api(server),
            poll=0.01,
            **SETTINGS,
        )
    assert result["model"]["final_loss"] == 1.0
    assert isinstance(storage.read_json(storage.join(scratch, "heartbeat")), float)
    assert storage.download(storage.join(scratch, "work"), tmp_path / "work").joinpath("backup.npz").exists()
    assert (tmp_path / "model" / "logs" / "events").read_bytes() == b"logs"


def segmentation(scratch):
    return Description(
        step="segment",
        inputs={},
        outputs={"predictions": storage.join(scratch, "predictions")},
        settings={},
        facts=storage.join(scratch, "facts.json"),
        shared=storage.join(scratch, "shared"),
    )


def test_what_a_failed_attempt_has_uploaded_is_not_among_the_results(bucket):
    """A volume that failed then has a result now, and one that had a result may fail now."""
    job = segmentation(storage.join(bucket, "run", "segment_job-abc"))

    def attempt(*made):
        with ExitStack() as pods:
            # The last process is the first one to upload.
            places = [pods.enter_context(_near(job, number == 0)) for number in range(len(made))]
            for place, names in zip(places, made, strict=True):
                for name in names:
                    Path(place["predictions"]).mkdir(exist_ok=True)
                    Path(place["predictions"], name).write_text(name)

    attempt(["failed.csv"], ["volume-2.nii.gz"])
    attempt(["volume-0.nii.gz"], ["volume-1.nii.gz"])
    assert set(listing(job.outputs["predictions"])[1]) == {"volume-0.nii.gz", "volume-1.nii.gz"}


def test_a_store_that_deletes_nothing_is_named_before_a_job_computes_anything(bucket, server):
    """S3 refuses single objects in an answer with status 200, which s3fs does not look into."""
    job = segmentation(storage.join(bucket, "run", "segment_job-abc"))
    storage.write_json(storage.join(job.outputs["predictions"], "failed.csv"), "from an attempt that failed")
    refusal = "<Error><Key>failed.csv</Key><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
    server.refusals["POST"] = ("200 OK", f"<DeleteResult>{refusal}</DeleteResult>")
    message = r"segment_job-abc/predictions: expected to be empty.*Allow the pods to delete objects"
    with pytest.raises(storage.StorageError, match=message), _near(job, first=True):
        pytest.fail("the job computes")
    assert not server.refusals
