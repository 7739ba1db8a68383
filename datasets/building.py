"""Running a TFDS build on Beam."""

from pathlib import Path

import tensorflow_datasets as tfds


def build(
    builder: tfds.core.DatasetBuilder, manual_dir: str | Path | None = None, beam_options: list[str] | None = None
) -> None:
    """Build a data set unless it is there.

    Args:
        builder: of a data set with its configuration and data_dir.
        manual_dir: folder of the user's files, for data sets that need one.
        beam_options: options of the Beam pipeline. Without `--runner` among them, Beam's local runner does the work:
            in this process, or with `["--direct_num_workers=4", "--direct_running_mode=multi_processing"]` in others.
    """
    # Only a build needs Beam, whose import takes seconds.
    from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner

    options = PipelineOptions(beam_options or [])
    # Beam's "DirectRunner" would first try to download the Prism runner; the one named here needs no network.
    runner = None if options.view_as(StandardOptions).runner else FnApiRunner()
    config = tfds.download.DownloadConfig(
        manual_dir=None if manual_dir is None else str(manual_dir), beam_runner=runner, beam_options=options
    )
    builder.download_and_prepare(download_config=config)
