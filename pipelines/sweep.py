"""The pipeline that trains at several learning rates, and finds the best one by the validation cases."""

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from components.ingest.component import ingest_folder
from components.preprocess.component import preprocess
from components.sweep.component import sweep as compared
from components.train.component import train
from pipelines.catalogue import PIPELINES
from pipelines.cluster import Cluster
from pipelines.parameters import Parameters, pipeline
from pipelines.resources import Resources, guarded
from pipelines.settings import Settings
from pipelines.shared import begin, checked_cases, sources, trained_model


def sweep(settings: Settings, cluster: Cluster | None = None) -> BaseComponent:
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
        "sweep",
        PIPELINES["sweep"],
        settings,
        (ingest_folder, preprocess, train, compared),
        without=("learning_rate",),
        also=(*origin, "learning_rates"),
        fixed=fixed,
    )
    def build(p: Parameters) -> None:
        with guarded(cluster):
            start = begin("sweep", p, settings, give)
            cases = checked_cases(p, settings, give, start)
            dataset = give(preprocess(cases=cases, **p.of(preprocess))).output
            parallelism = 1 if cluster is None else 0
            with dsl.ParallelFor(p["learning_rates"], name="learning-rates", parallelism=parallelism) as rate:
                model = trained_model(p, dataset, give, start, learning_rate=rate)
            give(compared(models=dsl.Collected(model), **p.of(compared)))

    return build
