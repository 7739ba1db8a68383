"""The same cases at several resolutions, and one report over all."""

import json

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from components.evaluate.component import evaluate
from components.ingest.component import ingest, ingest_folder
from components.phantom.component import phantom
from components.preprocess.component import preprocess
from components.study.component import study
from components.train.component import train
from pipelines.cluster import Cluster, Resources, guarded
from pipelines.settings import Settings


def resolution_study(settings: Settings, cluster: Cluster | None = None) -> BaseComponent:
    """The pipeline with these settings as defaults of its parameters."""
    give = Resources(cluster)

    @dsl.pipeline(name="resolution-study", description="Dice at several resolutions, on the grid of the scans.")
    def pipeline(
        data: str = settings.data,
        on_bad_case: str = settings.on_bad_case,
        resolutions: list = list(settings.resolutions),  # noqa: B006 (KFP reads it and never changes it)
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
        title: str = settings.title,
    ):
        with guarded(cluster):
            if settings.data:
                checked = ingest_folder(data=data, on_bad_case=on_bad_case)
                checked.set_caching_options(False)
            else:
                size, count = settings.phantom_size, settings.phantoms
                generated = phantom(cases=count, seed=seed, size=size, difficulty=settings.difficulty)
                checked = ingest(volumes=give(generated).outputs["volumes"], on_bad_case=on_bad_case)
            cases = give(checked).outputs["cases"]
            # One at a time: two trainings on one machine would only slow each other down.
            with dsl.ParallelFor(
                resolutions, name="resolutions", parallelism=1 if cluster is None else 0
            ) as resolution:
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
                scored = evaluate(cases=cases, dataset=dataset, model=model, mesh=mesh, layout=layout)
                evaluation = give(scored, accelerated=True).outputs["evaluation"]
            give(study(models=dsl.Collected(model), evaluations=dsl.Collected(evaluation), title=title))

    return pipeline
