"""What several pipelines begin with: checked parameters, checked cases, and a trained model."""

from typing import Any

from components.fingerprint.component import fingerprint
from components.ingest.component import ingest, ingest_folder
from components.phantom.component import phantom
from components.train.component import train
from components.train_job.component import train_job
from components.validate.component import validate
from components.validate.validate import Graph
from pipelines.catalogue import tasks_of
from pipelines.parameters import Parameters
from pipelines.resources import Resources
from pipelines.settings import Settings

_PHANTOMS = ("phantoms", "phantom_size", "difficulty")
_NEEDED = ("data", "model")


def sources(settings: Settings) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Of the settings that say where cases come from: those that are parameters, and those that are fixed.

    Whether a pipeline starts from a folder or from phantoms is decided when it is built and not at run time, so that
    the graph shows, and the user interface offers, only what is read.
    """
    return ((), _PHANTOMS) if settings.data else (_PHANTOMS, ("data",))


def validated(name: str, p: Parameters, settings: Settings, give: Resources) -> None:
    """Let a pipeline's parameters be checked before every other step, for which `give` sees to that.

    Only on a cluster: a run on this machine starts right after its settings were checked.
    """
    cluster = give.cluster
    if cluster is None:
        return
    trains, predicts = tasks_of(name)
    graph = Graph(
        pipeline=name,
        needed=tuple(n for n in _NEEDED if getattr(settings, n)),
        trains=trains,
        predicts=predicts,
        hardware=cluster.hardware(),
    )
    # Settings that are no parameters are what they are.
    fixed = {n: Settings.kfp_value(n, getattr(settings, n)) for n in Settings.model_fields if n not in p}
    task = validate(graph=graph.model_dump_json(), **p.of(validate), **fixed)
    # What it checks includes files, of which KFP's cache knows nothing.
    give.begin(give(task).set_caching_options(False))


def checked_cases(p: Parameters, settings: Settings, give: Resources) -> Any:
    """The cases of the folder `data`, or phantoms where it is empty, checked: a channel of the pipeline."""
    if settings.data:
        # KFP's cache knows the folder's name and not its files: a digest of these says whether ingest is to run again.
        seen = give.root(fingerprint(data=p["data"])).set_caching_options(False)
        task = ingest_folder(version=seen.output, **p.of(ingest_folder))
    else:
        made = phantom(cases=p["phantoms"], seed=p["seed"], size=p["phantom_size"], difficulty=p["difficulty"])
        task = ingest(volumes=give.root(made).outputs["volumes"], **p.of(ingest))
    return give(task).outputs["cases"]


def trained_model(p: Parameters, dataset: Any, give: Resources, **given: Any) -> Any:
    """A model trained on a data set: in this step, or by a job of several pods where the cluster asks for one; `given`
    are settings that are no parameters of the pipeline."""
    cluster = give.cluster
    if cluster is not None and cluster.nodes > 1:
        # The step that launches the job and waits for it needs no accelerator itself.
        launched = train_job(dataset=dataset, job=cluster.training_job().to_json(), **p.of(train_job), **given)
        return give(launched).outputs["model"]
    return give(train(dataset=dataset, **p.of(train), **given), accelerated=True).outputs["model"]
