"""The pipeline that trains on the same cases at several resolutions, and writes one report over all of them."""

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from components.evaluate.component import evaluate
from components.ingest.component import ingest_folder
from components.preprocess.component import preprocess
from components.study.component import study
from components.train.component import train
from pipelines.catalogue import PIPELINES
from pipelines.cluster import Cluster
from pipelines.parameters import Parameters, pipeline
from pipelines.resources import Resources, guarded
from pipelines.settings import Settings
from pipelines.shared import begin, checked_cases, evaluated, sources, trained_model


def resolution_study(settings: Settings, cluster: Cluster | None = None) -> BaseComponent:
    """Build the pipeline, whose parameters have these settings as their defaults.

    Args:
        settings: the settings of the run.
        cluster: the cluster whose resources the steps get; None for a run on this machine.

    Raises:
        SettingsError: if a setting is not read, or settings do not fit together.
    """
    give = Resources(cluster)
    origin, fixed = sources(settings)

    @pipeline(
        "resolution-study",
        PIPELINES["resolution_study"],
        settings,
        (ingest_folder, preprocess, train, evaluate, study),
        without=("resolution",),
        also=(*origin, "resolutions"),
        fixed=fixed,
    )
    def build(p: Parameters) -> None:
        with guarded(cluster):
            start = begin("resolution_study", p, settings, give)
            cases = checked_cases(p, settings, give, start)
            # One at a time on this machine: two trainings would only slow each other down.
            parallelism = 1 if cluster is None else 0
            with dsl.ParallelFor(p["resolutions"], name="resolutions", parallelism=parallelism) as resolution:
                built = preprocess(cases=cases, resolution=resolution, **p.of(preprocess))
                dataset = give(built).output
                model = trained_model(p, dataset, give, start)
                scored = evaluated(p, settings, give, cases=cases, dataset=dataset, model=model)
                evaluation = scored.outputs["evaluation"]
            give(study(models=dsl.Collected(model), evaluations=dsl.Collected(evaluation), **p.of(study)))

    return build
