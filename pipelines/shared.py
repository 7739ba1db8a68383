"""The steps with which several pipelines begin: checked parameters, checked cases, and a trained model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kfp import dsl

from components.evaluate.component import evaluate
from components.evaluate_job.component import evaluate_job
from components.fingerprint.component import fingerprint
from components.ingest.component import ingest, ingest_folder
from components.phantom.component import phantom
from components.segment.component import segment
from components.segment_job.component import segment_job
from components.train.component import train
from components.train_job.component import train_job
from components.validate.component import validate
from components.validate.validate import IMPORTED, Graph
from pipelines.catalogue import tasks_of
from pipelines.parameters import Parameters
from pipelines.resources import Resources
from pipelines.settings import Settings

_PHANTOMS = ("phantoms", "phantom_size", "difficulty")
_NEEDED = ("data", "model")
_IMPORTS = {"data": dsl.Dataset, "baseline": dsl.Artifact, "network": dsl.Model, "model": dsl.Model}


def sources(settings: Settings) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The settings that say where cases come from: first those that are parameters, and then those that are fixed.

    Whether a pipeline starts from a folder or from phantoms is decided when it is built rather than at run time, so
    that the graph and the user interface show only what is read.
    """
    return ((), _PHANTOMS) if settings.data else (_PHANTOMS, ("data",))


@dataclass(frozen=True)
class Start:
    """The results of the tasks that come before the steps of a pipeline.

    Attributes:
        imported: the artifacts that KFP has imported from URLs, by the names of the settings. KFP records what is made
            from them.
        network_version: the digest of the file of the network to fine-tune; empty for a network that is not a file.
    """

    imported: Mapping[str, Any]
    network_version: Any

    def given(self, **inputs: str) -> dict[str, Any]:
        """The imported artifacts as inputs of a component, given the name of the setting for each input."""
        return {i: self.imported[setting] for i, setting in inputs.items() if setting in self.imported}


def begin(name: str, p: Parameters, settings: Settings, give: Resources) -> Start:
    """Add the tasks that come before the steps of a pipeline: they check its parameters and import URLs.

    KFP imports only URLs of `IMPORTED`, and knows nothing of paths on volumes. So it is decided when the pipeline is
    built whether a setting is imported. KFP's launcher downloads a whole artifact for each step that takes it, which
    suits the file of a model or of metrics. The corpus is imported only for the lineage, and no step takes it.
    """
    urls = [n for n in _IMPORTS if n in p and getattr(settings, n).startswith(IMPORTED)]
    if give.cluster is not None:
        _validate(name, p, settings, give, urls)
    # KFP finds what it has imported before by its URL: all runs that read it descend from one artifact.
    tasks = {n: dsl.importer(artifact_uri=p[n], artifact_class=_IMPORTS[n], reimport=False) for n in urls}
    imported = {n: give.after_first(task.set_display_name(f"import-{n}")).output for n, task in tasks.items()}
    file = "network" in p and settings.network_source == "file"
    return Start(imported, _version(p["network"], give) if file else "")


def _validate(name: str, p: Parameters, settings: Settings, give: Resources, imported: Sequence[str]) -> None:
    """Add the step that checks the parameters of a pipeline, for which all other steps wait.

    This is only done on a cluster, because a run on this machine starts right after its settings were checked.
    """
    trains, predicts = tasks_of(name)
    assert give.cluster is not None
    # Settings that are not parameters keep their values.
    fixed = {
        n: Settings.kfp_value(n, getattr(settings, n))
        for n, field in Settings.model_fields.items()
        if n not in p and getattr(settings, n) != field.default
    }
    graph = Graph(
        pipeline=name,
        read=(*p, *fixed),
        needed=tuple(n for n in _NEEDED if getattr(settings, n)),
        imported=tuple(imported),
        fingerprints_network=settings.network_source == "file",
        fingerprints_task=trains and settings.task not in ("", "lits"),
        trains=trains,
        predicts=predicts,
        spans_pods=predicts and give.cluster.hardware().spans_pods(settings, trains=trains),
        hardware=give.cluster.hardware(),
    )
    task = validate(graph=graph.model_dump_json(), **p.of(validate), **fixed)
    # The step also checks files, about which KFP's cache knows nothing.
    give.begin(give(task).set_caching_options(False))


def checked_cases(p: Parameters, settings: Settings, give: Resources, start: Start) -> Any:
    """The checked cases of the folder `data`, or of phantoms if it is empty, as a channel of the pipeline."""
    if not settings.data:
        made = phantom(cases=p["phantoms"], seed=p["seed"], size=p["phantom_size"], difficulty=p["difficulty"])
        task = ingest(volumes=give.root(made).outputs["volumes"], **p.of(ingest))
        return give(task).outputs["cases"]
    versions = {"version": _version(p["data"], give)}
    if settings.task not in ("", "lits"):
        versions["task_version"] = _version(p["task"], give)
    # The step gets the path or URL even if KFP imports it, because KFP's launcher downloads artifacts whole. On a
    # cluster all steps have the same image and mount the same volumes, so none of them needs a copy.
    task = ingest_folder(by_reference=give.cluster is not None, **versions, **p.of(ingest_folder))
    return give(task).outputs["cases"]


def trained_model(p: Parameters, dataset: Any, give: Resources, start: Start, **given: Any) -> Any:
    """The model that is trained on a data set, in one step or in a job of several pods if the cluster file asks for it.

    `given` has settings that are not parameters of the pipeline.
    """
    given |= {"network_version": start.network_version, **start.given(imported_network="network")}
    if give.cluster is not None and give.cluster.nodes > 1:
        # The step that launches the job and waits for it needs no accelerator itself.
        launched = train_job(dataset=dataset, job=give.cluster.pods_job().to_json(), **p.of(train_job), **given)
        return give(launched).outputs["model"]
    return give(train(dataset=dataset, **p.of(train), **given), accelerated=True).outputs["model"]


def evaluated(p: Parameters, settings: Settings, give: Resources, **made: Any) -> Any:
    """The task that evaluates a model, in one step or in a job if the mesh does not fit into one pod.

    `made` has the artifacts that it reads.
    """
    job = _job(settings, give, trains=True)
    if job is None:
        return give(evaluate(**made, **p.of(evaluate)), accelerated=True)
    return give(evaluate_job(**made, job=job, **p.of(evaluate_job)))


def segmented(p: Parameters, settings: Settings, give: Resources, **given: Any) -> Any:
    """The task that segments volumes, like `evaluated`. `given` has its inputs that are not parameters."""
    job = _job(settings, give, trains=False)
    # KFP's cache knows the names of folders, but not their files.
    if job is None:
        return give.root(segment(**given, **p.of(segment)).set_caching_options(False), accelerated=True)
    return give.root(segment_job(**given, job=job, **p.of(segment_job)).set_caching_options(False))


def _job(settings: Settings, give: Resources, *, trains: bool) -> str | None:
    """The job of all pods that evaluates or segments; None if one pod does that."""
    cluster = give.cluster
    if cluster is None or not cluster.hardware().spans_pods(settings, trains=trains):
        return None
    return cluster.pods_job().to_json()


def _version(place: Any, give: Resources) -> Any:
    """The digest of files, because KFP's cache would otherwise know only the name of their folder."""
    return give.root(fingerprint(data=place)).set_caching_options(False).output
