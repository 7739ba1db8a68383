"""The pipeline that trains a network for each fold, so that every case is held out once, and writes one report."""

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from components.cross_validation.component import cross_validation as put_together
from components.evaluate.component import evaluate
from components.ingest.component import ingest_folder
from components.preprocess.component import preprocess
from components.train.component import train
from pipelines.catalogue import PIPELINES
from pipelines.cluster import Cluster
from pipelines.parameters import Parameters, pipeline
from pipelines.resources import Resources, guarded
from pipelines.settings import Settings
from pipelines.shared import begin, checked_cases, evaluated, sources, trained_model


def cross_validation(settings: Settings, cluster: Cluster | None = None) -> BaseComponent:
    """Build the pipeline, whose parameters have these settings as their defaults. The number of folds is fixed.

    Args:
        settings: the settings of the run.
        cluster: the cluster whose resources the steps get; None for a run on this machine.

    Raises:
        SettingsError: if a setting is not read, or settings do not fit together.
    """
    give = Resources(cluster)
    origin, fixed = sources(settings)
    splits = [f"fold-{fold}-of-{settings.folds}" for fold in range(settings.folds)]

    @pipeline(
        "cross-validation",
        PIPELINES["cross_validation"],
        settings,
        (ingest_folder, preprocess, train, evaluate, put_together),
        without=("split",),
        also=origin,
        fixed=(*fixed, "folds"),
    )
    def build(p: Parameters) -> None:
        with guarded(cluster):
            start = begin("cross_validation", p, settings, give)
            cases = checked_cases(p, settings, give, start)
            # One at a time on this machine: two trainings would only slow each other down.
            parallelism = 1 if cluster is None else 0
            with dsl.ParallelFor(splits, name="folds", parallelism=parallelism) as split:
                dataset = give(preprocess(cases=cases, split=split, **p.of(preprocess))).output
                model = trained_model(p, dataset, give, start)
                scored = evaluated(p, settings, give, cases=cases, dataset=dataset, model=model)
                evaluation = scored.outputs["evaluation"]
            give(put_together(evaluations=dsl.Collected(evaluation), **p.of(put_together)))

    return build
