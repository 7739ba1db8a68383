"""The whole chain: volumes, data set, training on a mesh, evaluation, report."""

import json

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from components.compare.component import compare
from components.evaluate.component import evaluate
from components.export.component import export
from components.ingest.component import ingest, ingest_folder
from components.phantom.component import phantom
from components.preprocess.component import preprocess
from components.report.component import report
from components.train.component import train
from pipelines.cluster import Cluster, Resources, guarded
from pipelines.settings import Settings


def lits_segmentation(settings: Settings, cluster: Cluster | None = None) -> BaseComponent:
    """The pipeline with these settings as defaults of its parameters.

    Whether it starts from a folder or from phantoms is decided here and not at run time, so that the graph shows only
    what runs. With a cluster, steps get its resources and an exit handler.
    """
    give = Resources(cluster)

    @dsl.pipeline(
        name="lits-segmentation", description="CT volumes to a spatially partitioned 3D U-Net and its report."
    )
    def pipeline(
        data: str = settings.data,
        on_bad_case: str = settings.on_bad_case,
        resolution: int = settings.resolution,
        split: str = settings.split,
        beam_options: str = json.dumps(settings.beam_options),
        mesh: str = settings.mesh,
        layout: str = settings.layout,
        filters: int = settings.filters,
        levels: int = settings.levels,
        dropout: float = settings.dropout,
        epochs: int = settings.epochs,
        batch_size: int = settings.batch_size,
        learning_rate: float = settings.learning_rate,
        minutes: float = settings.minutes,
        seed: int = settings.seed,
        thresholds: bool = settings.thresholds,
        baseline: str = settings.baseline,
        tolerance: float = settings.tolerance,
        title: str = settings.title,
    ):
        with guarded(cluster):
            if settings.data:
                checked = ingest_folder(data=data, on_bad_case=on_bad_case)
                # KFP's cache knows the folder's name and not its files.
                checked.set_caching_options(False)
            else:
                size, count = settings.phantom_size, settings.phantoms
                generated = phantom(cases=count, seed=seed, size=size, difficulty=settings.difficulty)
                checked = ingest(volumes=give(generated).outputs["volumes"], on_bad_case=on_bad_case)
            cases = give(checked).outputs["cases"]
            built = preprocess(cases=cases, resolution=resolution, split=split, beam_options=beam_options)
            dataset = give(built).output
            trained = train(
                dataset=dataset,
                mesh=mesh,
                layout=layout,
                filters=filters,
                levels=levels,
                dropout=dropout,
                epochs=epochs,
                batch_size=batch_size,
                learning_rate=learning_rate,
                minutes=minutes,
                seed=seed,
            )
            model = give(trained, accelerated=True).output
            scored = evaluate(
                cases=cases, dataset=dataset, model=model, mesh=mesh, layout=layout, thresholds=thresholds
            )
            evaluation = give(scored, accelerated=True).outputs["evaluation"]
            give(report(cases=cases, dataset=dataset, model=model, evaluation=evaluation, title=title))
            compared = give(compare(evaluation=evaluation, baseline=baseline, tolerance=tolerance))
            # The gate is inside the step: KFP's local runner 2.16 skipped a `dsl.If` whose condition held.
            give(export(model=model, evaluation=evaluation, decision=compared.outputs["decision"]))

    return pipeline
