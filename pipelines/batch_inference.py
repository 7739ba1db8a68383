"""CT volumes in, segmentations as NIfTI out, on each volume's own grid."""

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
    """The pipeline with these settings as defaults of its parameters; the number of shares is fixed.

    Raises:
        SettingsError: without `data` or `model`.
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
            # Here one at a time: two networks on one machine would only slow each other down.
            parallelism = 1 if cluster is None else 0
            with dsl.ParallelFor(shares, name="shares", parallelism=parallelism) as share:
                task = segmented(p, settings, give, volumes=p["data"], share=share, **imported)
                part = task.outputs["predictions"]
            give(gather(parts=dsl.Collected(part))).set_caching_options(False)

    return build
