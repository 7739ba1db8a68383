"""The whole chain: volumes, data set, training on a mesh, evaluation, report."""

import json

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from components.evaluate.component import evaluate
from components.ingest.component import ingest, ingest_folder
from components.phantom.component import phantom
from components.preprocess.component import preprocess
from components.report.component import report
from components.train.component import train
from pipelines.settings import Settings


def lits_segmentation(settings: Settings) -> BaseComponent:
    """The pipeline with these settings as defaults of its parameters.

    Whether it starts from a folder or from phantoms is decided here and not at run time, so that the graph shows only
    what runs.
    """

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
        title: str = settings.title,
    ):
        if settings.data:
            checked = ingest_folder(data=data, on_bad_case=on_bad_case)
        else:
            generated = phantom(
                cases=settings.phantoms, seed=seed, size=settings.phantom_size, difficulty=settings.difficulty
            )
            checked = ingest(volumes=generated.outputs["volumes"], on_bad_case=on_bad_case)
        cases = checked.outputs["cases"]
        dataset = preprocess(cases=cases, resolution=resolution, split=split, beam_options=beam_options).output
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
        scored = evaluate(
            cases=cases,
            dataset=dataset,
            model=trained.output,
            mesh=mesh,
            layout=layout,
            thresholds=thresholds,
        )
        report(
            cases=cases,
            dataset=dataset,
            model=trained.output,
            evaluation=scored.outputs["evaluation"],
            title=title,
        )

    return pipeline
