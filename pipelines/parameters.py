"""The parameters of a pipeline: the settings that its components take, so that each setting is defined only once."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from kfp import dsl
from kfp.dsl.base_component import BaseComponent
from kfp.dsl.types import type_utils

from pipelines.settings import Settings, refuse_unread


class Parameters(Mapping[str, Any]):
    """The values of a pipeline's parameters while it is built: KFP's channels, by the names of the settings."""

    def __init__(self, values: Mapping[str, Any]):
        self._values = dict(values)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def of(self, component: BaseComponent) -> dict[str, Any]:
        """The values that a component takes."""
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
    """Make a decorator that turns a function of `Parameters` into a KFP pipeline.

    Args:
        name: the name of the pipeline.
        description: the description of the pipeline, one sentence.
        settings: the settings that give the parameters' defaults. Their descriptions become the parameters' help in
            KFP's user interface.
        components: the components of the pipeline. Their inputs that are settings become parameters.
        also: the names of further settings that become parameters.
        without: the names of settings that do not become parameters.
        fixed: the names of settings that are read while the pipeline is built, so they cannot be parameters.

    Raises:
        SettingsError: if a setting that the pipeline does not read has another value than its default, or the settings
            that it reads do not fit together.
    """
    taken = {name for component in components for name in _inputs(component)} | set(also)
    names = [name for name in Settings.model_fields if name in taken and name not in (*without, *fixed)]
    refuse_unread(settings, name, {*names, *fixed})
    settings.check_read({*names, *fixed})
    defaults = {n: Settings.kfp_value(n, getattr(settings, n)) for n in names}

    def decorate(build: Callable[[Parameters], None]) -> BaseComponent:
        def function(*values: Any) -> None:
            build(Parameters(dict(zip(names, values, strict=True))))

        # KFP takes names, types and defaults from the signature, and the help from the docstring.
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
    """The names of a component's parameters, without its artifacts, which may have the names of settings."""
    inputs = component.component_spec.inputs or {}
    return [name for name, facts in inputs.items() if type_utils.is_parameter_type(facts.type)]
