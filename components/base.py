"""What the components share: the container image, and parameters from groups of settings.

A running step does not import this module, because KFP removes the decorator from a component's source.
"""

import ast
import inspect
import linecache
import os
import textwrap
from collections.abc import Callable
from typing import Any

from kfp import dsl

from components.resume import code_version
from components.settings import Group

IMAGE = os.environ.get("KERAS_SPATIAL_IMAGE", "keras-spatial-python:0.2.0")
"""The default container image, built from the `Dockerfile`. The cluster file or `compile --image` may name another."""


def component(function: Callable[..., Any]) -> Any:
    """Make a KFP component of a function. The image contains all packages, so nothing is installed when a step starts.

    A parameter `settings: Annotated[dict, TrainingSettings]` becomes one parameter for each field of that `Group`, with
    its default and description. In the body, `settings` is the dictionary of their values.

    KFP's cache identifies a step by its image, command, arguments and inputs (kubeflow/pipelines 2.17.0,
    backend/src/v2/cacheutils/cache.go), and not by the project code that it imports. So the command ends with the
    digest of that code, and changed code under the same tag of the image does not get old results.
    """
    made: Any = dsl.component(_expanded(function), base_image=IMAGE, install_kfp_package=False)
    made.component_spec.implementation.container.command[-1] += f"\n# keras-spatial code {code_version()}\n"
    return made


def _expanded(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with a plain parameter for each field of its groups, compiled from new source code.

    KFP needs the source: it reads the signature when the pipeline is compiled, and again where the step runs, which
    gets only this text.
    """
    groups = {
        name: group
        for name, annotation in inspect.get_annotations(function).items()
        for group in getattr(annotation, "__metadata__", ())
        if inspect.isclass(group) and issubclass(group, Group)
    }
    if not groups:
        return function
    [definition] = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    assert isinstance(definition, ast.FunctionDef)
    definition.decorator_list = []
    documentation = [inspect.cleandoc(ast.get_docstring(definition) or "")]
    [*plain] = (argument for argument in definition.args.args if argument.arg not in groups)
    defaults = list(definition.args.defaults)
    head: list[ast.stmt] = []
    for name, group in groups.items():
        parameters = group.parameters()
        text = ", ".join(f"{n}: {kind.__name__} = {default!r}" for n, (kind, default, _) in parameters.items())
        [written] = ast.parse(f"def f({text}): pass").body
        assert isinstance(written, ast.FunctionDef)
        plain += written.args.args
        defaults += written.args.defaults
        head += ast.parse(f"{name} = dict({', '.join(f'{n}={n}' for n in parameters)})").body
        documentation += [f"    {n}: {description}" for n, (_, _, description) in parameters.items()]
    definition.args.args, definition.args.defaults = plain, defaults
    written_documentation = ast.Expr(ast.Constant("\n".join(documentation) + "\n"))
    definition.body = [written_documentation, *head, *definition.body[1:]]
    text = ast.unparse(ast.fix_missing_locations(definition))
    file = f"<component {function.__name__}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    namespace = dict(vars(inspect.getmodule(function)))
    exec(compile(text, file, "exec"), namespace)
    return namespace[function.__name__]
