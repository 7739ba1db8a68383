"""The whole chain: volumes, data set, training on a mesh, evaluation, report."""

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from components.compare.component import compare
from components.evaluate.component import evaluate
from components.export.component import export
from components.ingest.component import ingest_folder
from components.preprocess.component import preprocess
from components.report.component import report
from components.train.component import train
from pipelines.cluster import Cluster, Resources, guarded
from pipelines.parameters import Parameters, pipeline
from pipelines.settings import Settings
from pipelines.shared import checked_cases, trained_model


def lits_segmentation(settings: Settings, cluster: Cluster | None = None) -> BaseComponent:
    """The pipeline with these settings as defaults of its parameters.

    Whether it starts from a folder or from phantoms is decided here and not at run time, so that the graph shows only
    what runs. With a cluster, steps get its resources.
    """
    give = Resources(cluster)

    @pipeline(
        "lits-segmentation",
        "CT volumes to a spatially partitioned 3D U-Net and its report.",
        settings,
        (ingest_folder, preprocess, train, evaluate, report, compare),
    )
    def build(p: Parameters) -> None:
        with guarded(cluster):
            cases = checked_cases(p, settings, give)
            dataset = give(preprocess(cases=cases, **p.of(preprocess))).output
            model = trained_model(p, dataset, give)
            scored = give(evaluate(cases=cases, dataset=dataset, model=model, **p.of(evaluate)), accelerated=True)
            evaluation = scored.outputs["evaluation"]
            give(report(cases=cases, dataset=dataset, model=model, evaluation=evaluation, **p.of(report)))
            compared = give(compare(evaluation=evaluation, **p.of(compare)))
            with dsl.If(compared.outputs["Output"] == True, name="accepted"):  # noqa: E712 - KFP overloads it.
                give(export(model=model, evaluation=evaluation))

    return build
