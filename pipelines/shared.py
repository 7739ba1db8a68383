"""What several pipelines begin with: checked cases, and a trained model."""

from typing import Any

from components.fingerprint.component import fingerprint
from components.ingest.component import ingest, ingest_folder
from components.phantom.component import phantom
from components.train.component import train
from components.train_job.component import train_job
from pipelines.parameters import Parameters
from pipelines.resources import Resources
from pipelines.settings import Settings

CASES = ("phantoms", "phantom_size", "difficulty")
"""Settings that `checked_cases` reads while a pipeline is built."""


def checked_cases(p: Parameters, settings: Settings, give: Resources) -> Any:
    """The cases of the folder `data`, or phantoms where it is empty, checked: a channel of the pipeline."""
    if settings.data:
        # KFP's cache knows the folder's name and not its files: a digest of these says whether ingest is to run again.
        seen = give(fingerprint(data=p["data"])).set_caching_options(False)
        task = ingest_folder(version=seen.output, **p.of(ingest_folder))
    else:
        made = phantom(
            cases=settings.phantoms, seed=p["seed"], size=settings.phantom_size, difficulty=settings.difficulty
        )
        task = ingest(volumes=give(made).outputs["volumes"], **p.of(ingest))
    return give(task).outputs["cases"]


def trained_model(p: Parameters, dataset: Any, give: Resources, **given: Any) -> Any:
    """A model trained on a data set: in this step, or by a job of several pods where the cluster asks for one; `given`
    are settings that are no parameters of the pipeline."""
    cluster = give.cluster
    if cluster is not None and cluster.nodes > 1:
        # The step that launches the job and waits for it needs no accelerator itself.
        launched = train_job(dataset=dataset, job=cluster.training_job().to_json(), **p.of(train_job), **given)
        return give(launched).output
    return give(train(dataset=dataset, **p.of(train), **given), accelerated=True).output
