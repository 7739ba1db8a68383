"""The pipeline from volumes to a data set, training on a mesh, evaluation, report and export."""

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from components.compare.component import compare
from components.evaluate.component import evaluate
from components.export.component import export
from components.ingest.component import ingest_folder
from components.preprocess.component import preprocess
from components.report.component import report
from components.train.component import train
from pipelines.catalogue import PIPELINES
from pipelines.cluster import Cluster
from pipelines.parameters import Parameters, pipeline
from pipelines.resources import Resources, guarded
from pipelines.settings import Settings
from pipelines.shared import begin, checked_cases, evaluated, sources, trained_model


def lits_segmentation(settings: Settings, cluster: Cluster | None = None) -> BaseComponent:
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
        "lits-segmentation",
        PIPELINES["lits_segmentation"],
        settings,
        (ingest_folder, preprocess, train, evaluate, report, compare),
        also=origin,
        fixed=fixed,
    )
    def build(p: Parameters) -> None:
        with guarded(cluster):
            start = begin("lits_segmentation", p, settings, give)
            cases = checked_cases(p, settings, give, start)
            dataset = give(preprocess(cases=cases, **p.of(preprocess))).output
            model = trained_model(p, dataset, give, start)
            made = {"cases": cases, "dataset": dataset, "model": model}
            scored = evaluated(p, settings, give, **made)
            evaluation, predictions = scored.outputs["evaluation"], scored.outputs["predictions"]
            reported = report(**made, evaluation=evaluation, predictions=predictions, **p.of(report))
            # KFP's cache knows the baseline's name, but not the content of the file.
            give(reported).set_caching_options(False)
            earlier = start.given(imported_baseline="baseline")
            compared = give(compare(evaluation=evaluation, **earlier, **p.of(compare))).set_caching_options(False)
            with dsl.If(compared.outputs["Output"] == True, name="accepted"):  # noqa: E712 - KFP overloads it.
                give(export(model=model, evaluation=evaluation))

    return build
