"""The component `finish`."""

from kfp import dsl

from components.base import component


@component
def finish(record: dsl.Output[dsl.Artifact], status: dsl.PipelineTaskFinalStatus):
    """Record how the run ended, beside the artifacts of its finished steps, which stay where they are.

    Args:
        record: JSON with the state, the error and the run.
        status: Given by KFP.
    """
    from components.files import write_json

    facts = {
        "state": status.state,
        "pipeline": status.pipeline_job_resource_name,
        "task": status.pipeline_task_name,
        "error_code": status.error_code,
        "error": status.error_message,
    }
    write_json(record.path, facts)
    print(f"finish: {facts}", flush=True)
