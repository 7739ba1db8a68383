"""The parameters of a pipeline: the settings that its components take, written once, in `pipelines.settings`."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from kfp import dsl
from kfp.dsl.base_component import BaseComponent
from kfp.dsl.types import type_utils

from pipelines.settings import Settings, refuse_unread


class Parameters(Mapping[str, Any]):
    """The values of a pipeline's parameters while it is built: KFP's channels, by name of setting."""

    def __init__(self, values: Mapping[str, Any]):
        self._values = dict(values)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def of(self, component: BaseComponent) -> dict[str, Any]:
        """Those that a component takes."""
        return {name: self[name] for name in _inputs(component) if name in self}


def pipeline(
    name: str,
    description: str,
    settings: Settings,
    components: Sequence[BaseComponent],
    also: Sequence[str] = (),
    without: Sequence[str] = (),
    fixed: Sequence[str] = (),
) -> Callable[[Callable[[Parameters], None]], BaseComponent]:
    """Make a KFP pipeline of a function that takes `Parameters`.

    Args:
        name: the name of the pipeline.
        description: one sentence.
        settings: give the defaults; their descriptions become the parameters' help in the user interface.
        components: whose inputs, where they are settings, are the parameters.
        also: further settings.
        without: settings that are no parameters.
        fixed: settings that are read while the pipeline is built, so that they are no parameters.

    Raises:
        SettingsError: if `settings` gives a value to one that the pipeline does not read, or those that it reads do
            not fit together.
    """
    taken = {name for component in components for name in _inputs(component)} | set(also)
    names = [name for name in Settings.model_fields if name in taken and name not in (*without, *fixed)]
    refuse_unread(settings, name, {*names, *fixed})
    settings.check_read({*names, *fixed})
    defaults = {n: Settings.kfp_value(n, getattr(settings, n)) for n in names}

    def decorate(build: Callable[[Parameters], None]) -> BaseComponent:
        def function(*values: Any) -> None:
            build(Parameters(dict(zip(names, values, strict=True))))

        # KFP reads names, types and defaults of the signature, and the help of the docstring.
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        signature = inspect.Signature(
            [inspect.Parameter(n, kind, default=default, annotation=type(default)) for n, default in defaults.items()]
        )
        vars(function)["__signature__"] = signature
        lines = [f"    {n}: {Settings.model_fields[n].description}" for n in names]
        function.__doc__ = "\n".join([description, "", "Args:", *lines])
        return dsl.pipeline(function, name=name, description=description)

    return decorate


def _inputs(component: BaseComponent) -> list[str]:
    """The parameters of a component; artifacts are no settings, whatever their names."""
    inputs = component.component_spec.inputs or {}
    return [name for name, facts in inputs.items() if type_utils.is_parameter_type(facts.type)]
