"""The component `validate`."""

from typing import Annotated

from components.base import component
from components.validate.settings import Settings


@component
def validate(graph: str, settings: Annotated[dict, Settings]):
    """Check the parameters of a run, which may have been edited in the user interface, before anything else starts.

    Args:
        graph: The JSON of the decisions that are fixed in the compiled pipeline; the compiler writes it.
    """
    from components.validate.validate import validate_run

    validate_run(settings, graph=graph)
