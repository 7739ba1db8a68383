"""The component `finish`."""

from kfp import dsl

from components.base import component


@component
def finish(record: dsl.Output[dsl.Artifact], run_id: str, status: dsl.PipelineTaskFinalStatus):
    """Record how the run ended and save the logs of its pods. The artifacts of finished steps are left alone.

    Args:
        record: A folder with run.json (state, error, finished steps) and, on a cluster, the logs of the run's pods.
        run_id: The identity of the run, which KFP gives.
        status: The final status of the run, which KFP gives.
    """
    from components.finish.finish import record_run

    facts = {
        "state": status.state,
        "pipeline": status.pipeline_job_resource_name,
        "task": status.pipeline_task_name,
        "error_code": status.error_code,
        "error": status.error_message,
    }
    record_run(record.path, run_id=run_id, facts=facts)
