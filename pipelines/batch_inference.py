"""The pipeline that segments volumes with a trained model, each on its own grid."""

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from components.gather.component import gather
from components.segment.component import segment
from pipelines.catalogue import PIPELINES
from pipelines.cluster import Cluster
from pipelines.parameters import Parameters, pipeline
from pipelines.resources import Resources, guarded
from pipelines.settings import Settings, SettingsError
from pipelines.shared import begin, segmented


def batch_inference(settings: Settings, cluster: Cluster | None = None) -> BaseComponent:
    """Build the pipeline, whose parameters have these settings as their defaults. The number of shares is fixed.

    Args:
        settings: the settings of the run.
        cluster: the cluster whose resources the steps get; None for a run on this machine.

    Raises:
        SettingsError: if `data` or `model` is missing, a setting is not read, or settings do not fit together.
    """
    for name, value in (("data", settings.data), ("model", settings.model)):
        if not value:
            raise SettingsError(f"{name}: batch_inference needs it. Give --set {name}=PATH.")
    give = Resources(cluster)

    shares = [f"{number}-of-{settings.shares}" for number in range(settings.shares)]

    @pipeline("batch-inference", PIPELINES["batch_inference"], settings, (segment,), also=("data",), fixed=("shares",))
    def build(p: Parameters) -> None:
        with guarded(cluster):
            start = begin("batch_inference", p, settings, give)
            imported = start.given(imported_model="model")
            if len(shares) == 1:
                segmented(p, settings, give, volumes=p["data"], **imported)
                return
            # On this machine, shares run one at a time, because two networks would only slow each other down.
            parallelism = 1 if cluster is None else 0
            with dsl.ParallelFor(shares, name="shares", parallelism=parallelism) as share:
                task = segmented(p, settings, give, volumes=p["data"], share=share, **imported)
                part = task.outputs["predictions"]
            give(gather(parts=dsl.Collected(part))).set_caching_options(False)

    return build
