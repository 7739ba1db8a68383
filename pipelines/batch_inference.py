"""CT volumes in, segmentations as NIfTI out, on each volume's own grid."""

from kfp.dsl.base_component import BaseComponent

from components.segment.component import segment
from pipelines.catalogue import PIPELINES
from pipelines.cluster import Cluster
from pipelines.parameters import Parameters, pipeline
from pipelines.resources import Resources, guarded
from pipelines.settings import Settings, SettingsError
from pipelines.shared import validated


def batch_inference(settings: Settings, cluster: Cluster | None = None) -> BaseComponent:
    """The pipeline with these settings as defaults of its parameters.

    Raises:
        SettingsError: without `data` or `model`.
    """
    for name, value in (("data", settings.data), ("model", settings.model)):
        if not value:
            raise SettingsError(f"{name}: batch_inference needs it. Give --set {name}=PATH.")
    give = Resources(cluster)

    @pipeline("batch-inference", PIPELINES["batch_inference"], settings, (segment,), also=("data",))
    def build(p: Parameters) -> None:
        with guarded(cluster):
            validated("batch_inference", p, settings, give)
            task = segment(volumes=p["data"], **p.of(segment))
            # KFP's cache knows the folders' names and not their files.
            task.set_caching_options(False)
            give.root(task, accelerated=True)

    return build
