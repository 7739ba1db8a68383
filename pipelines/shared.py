"""What several pipelines begin with: checked parameters, checked cases, and a trained model."""

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
from components.storage import is_url
from components.train.component import train
from components.train_job.component import train_job
from components.validate.component import validate
from components.validate.validate import IMPORTED, Graph
from pipelines.catalogue import tasks_of
from pipelines.parameters import Parameters
from pipelines.resources import Resources
from pipelines.settings import Settings, SettingsError

_PHANTOMS = ("phantoms", "phantom_size", "difficulty")
_NEEDED = ("data", "model")
_IMPORTS = {"data": dsl.Dataset, "baseline": dsl.Artifact, "network": dsl.Model, "model": dsl.Model}


def sources(settings: Settings) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Of the settings that say where cases come from: those that are parameters, and those that are fixed.

    Whether a pipeline starts from a folder or from phantoms is decided when it is built and not at run time, so that
    the graph shows, and the user interface offers, only what is read.
    """
    return ((), _PHANTOMS) if settings.data else (_PHANTOMS, ("data",))


@dataclass(frozen=True)
class Start:
    """What the steps of a pipeline begin with.

    Attributes:
        imported: by name of setting, the artifact of what a URL names: KFP records what was made of it.
        network_version: a digest of the network to fine-tune; empty for one that is no file.
    """

    imported: Mapping[str, Any]
    network_version: Any

    def given(self, **inputs: str) -> dict[str, Any]:
        """What was imported, as inputs of a component: by name of input, the setting that names it."""
        return {i: self.imported[setting] for i, setting in inputs.items() if setting in self.imported}


def begin(name: str, p: Parameters, settings: Settings, give: Resources) -> Start:
    """What comes before the steps of a pipeline: its parameters are checked, and what URLs name is imported.

    KFP imports URLs of `IMPORTED` alone; a path on a volume it does not know. So whether a setting is imported is
    decided when the pipeline is built. Its launcher downloads an artifact whole for each step that takes it: right for
    the file of a model or of metrics. The corpus is imported for the lineage alone, and no step takes it.
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
    """Let a pipeline's parameters be checked before every other step, for which `give` sees to that.

    Only on a cluster: a run on this machine starts right after its settings were checked.
    """
    trains, predicts = tasks_of(name)
    assert give.cluster is not None
    # Settings that are no parameters are what they are.
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
    # What it checks includes files, of which KFP's cache knows nothing.
    give.begin(give(task).set_caching_options(False))


def checked_cases(p: Parameters, settings: Settings, give: Resources, start: Start) -> Any:
    """The cases of the folder `data`, or phantoms where it is empty, checked: a channel of the pipeline."""
    if not settings.data:
        made = phantom(cases=p["phantoms"], seed=p["seed"], size=p["phantom_size"], difficulty=p["difficulty"])
        task = ingest(volumes=give.root(made).outputs["volumes"], **p.of(ingest))
        return give(task).outputs["cases"]
    versions = {"version": _version(p["data"], give)}
    if settings.task not in ("", "lits"):
        versions["task_version"] = _version(p["task"], give)
    # By path or URL, also where it is imported: what a step takes as an artifact KFP's launcher downloads whole.
    task = ingest_folder(**versions, **p.of(ingest_folder))
    return give(task).outputs["cases"]


def trained_model(p: Parameters, dataset: Any, give: Resources, start: Start, **given: Any) -> Any:
    """A model trained on a data set: in this step, or by a job of several pods where the cluster asks for one; `given`
    are settings that are no parameters of the pipeline."""
    given |= {"network_version": start.network_version, **start.given(imported_network="network")}
    if give.cluster is not None and give.cluster.nodes > 1:
        # The step that launches the job and waits for it needs no accelerator itself.
        launched = train_job(dataset=dataset, job=give.cluster.pods_job().to_json(), **p.of(train_job), **given)
        return give(launched).outputs["model"]
    return give(train(dataset=dataset, **p.of(train), **given), accelerated=True).outputs["model"]


def evaluated(p: Parameters, settings: Settings, give: Resources, **made: Any) -> Any:
    """The task that evaluates a model: in its step, or by a job where the mesh does not fit into one pod; `made` are
    the artifacts that it reads."""
    job = _job(settings, give, trains=True)
    if job is None:
        return give(evaluate(**made, **p.of(evaluate)), accelerated=True)
    return give(evaluate_job(**made, job=job, **p.of(evaluate_job)))


def segmented(p: Parameters, settings: Settings, give: Resources, **given: Any) -> Any:
    """The task that segments volumes, as `evaluated`; `given` are its inputs that are no parameters."""
    job = _job(settings, give, trains=False)
    # KFP's cache knows the folders' names and not their files.
    if job is None:
        return give.root(segment(**given, **p.of(segment)).set_caching_options(False), accelerated=True)
    return give.root(segment_job(**given, job=job, **p.of(segment_job)).set_caching_options(False))


def _job(settings: Settings, give: Resources, *, trains: bool) -> str | None:
    """The job of all pods that evaluates or segments; None where one pod does.

    Raises:
        SettingsError: if the pods would have no folder in common.
    """
    cluster = give.cluster
    if cluster is None or not cluster.hardware().spans_pods(settings, trains=trains):
        return None
    if is_url(cluster.scratch):
        raise SettingsError(
            f"{'evaluation_mesh' if trains else 'mesh'}: an evaluation or segmentation over {cluster.nodes} pods needs "
            "a scratch folder on a volume in the cluster file, for the pods write parts of one file. Received: scratch "
            f"{cluster.scratch!r}. Name a folder there, or a mesh that fits into one pod."
        )
    return cluster.pods_job().to_json()


def _version(place: Any, give: Resources) -> Any:
    """A digest of files: KFP's cache knows their folder's name only, and so takes them for the same for ever."""
    return give.root(fingerprint(data=place)).set_caching_options(False).output
