"""Read YAML within limits: the values of a text are counted before they are built.

A few hundred bytes of YAML can represent billions of values (an alias of a list of aliases of a list ...), and deep
nesting ends in a RecursionError. So the events of the parser, which needs no recursion, are counted first, and each
alias counts as much as its content.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from components import pure
from components.faults import cut, shortened

VARIABLE = "KERAS_SPATIAL_YAML_LIMITS"


class YamlError(ValueError):
    """A text is not YAML, or exceeds the limits."""


@dataclass(frozen=True)
class YamlLimits:
    """The limits of a YAML text.

    Attributes:
        size: the largest number of bytes.
        depth: the largest depth to which lists and mappings are nested.
        values: the largest number of scalars, lists and mappings, where each alias counts as much as its content.
    """

    size: int = 1 << 17
    depth: int = 50
    values: int = 20_000

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"YAML limits: {name}: expected an integer from 1. Received: {value!r}")

    @classmethod
    def current(cls, default: "YamlLimits | None" = None) -> "YamlLimits":
        """The limits in `default`, replaced by those in the environment variable `KERAS_SPATIAL_YAML_LIMITS`, such as
        `values=1000000; depth=90`.

        Raises:
            YamlError: if the variable has another form.
        """
        limits = vars(default or cls()).copy()
        for part in filter(None, (p.strip() for p in os.environ.get(VARIABLE, "").split(";"))):
            name, _, value = (p.strip() for p in part.partition("="))
            if name not in limits or not (value.isascii() and value.isdigit() and 1 <= len(value) <= 15):
                raise YamlError(f"{VARIABLE}: expected pairs such as values=1000000; depth=90. Received: {part!r}")
            limits[name] = int(value)
        return cls(**limits)


def read_yaml(path: str | Path, limits: YamlLimits | None = None) -> list[Any]:
    """The documents of a YAML file.

    Args:
        path: the path of the file.
        limits: the limits of the text; `YamlLimits.current()` by default.

    Raises:
        YamlError: if the file cannot be read, is not UTF-8 or YAML, has a key twice, or exceeds the limits. The message
            names the file.
    """
    limits = limits or YamlLimits.current()
    try:
        with pure.load("_paths").regular(path).open("rb") as file:
            content = file.read(limits.size + 1)
        if len(content) > limits.size:
            raise _too_much(str(path), "size", limits, f"at least {len(content)} bytes")
        text = content.decode("utf-8")
    except YamlError:
        raise
    except (OSError, ValueError) as error:
        raise YamlError(f"{path}: cannot be read as UTF-8 text. Received: {error}") from error
    return parse_yaml(text, str(path), limits)


def parse_yaml(text: str, where: str, limits: YamlLimits | None = None) -> list[Any]:
    """The documents of a YAML text.

    Args:
        text: the text.
        where: the name of the file or the argument, for messages.
        limits: the limits of the text; `YamlLimits.current()` by default.

    Raises:
        YamlError: as for `read_yaml`.
    """
    limits = limits or YamlLimits.current()
    if len(text) > limits.size:
        raise _too_much(where, "size", limits, f"at least {len(text)} bytes")
    try:
        _measure(text, where, limits)
        return list(yaml.load_all(text, _Loader))
    except YamlError:
        raise
    except _REFUSED as error:
        message = " ".join(cut(str(error)).split())
        raise YamlError(f"{where}: cannot be read as YAML. Received: {type(error).__name__}: {message}") from error


# Besides its own errors, PyYAML passes on those for invalid dates, numbers and characters.
_REFUSED = (
    yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError,
)  # fmt: skip


_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, except that a repeated key is an error, and numbers follow YAML 1.2 and JSON.

    PyYAML reads the numbers of YAML 1.1, in which `3e-5` is a text, `010` is eight, and `1:30` is ninety.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012  As PyYAML declares it.
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in _NUMBERS]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key)
            if name in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} occurs twice", key.start_mark
                )
            seen.add(name)
        return super().construct_mapping(node, deep)


def _decimal(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node), 10)


# https://yaml.org/spec/1.2.2/#103-core-schema, without octal and hexadecimal numbers.
_Loader.add_implicit_resolver(_NUMBERS[0], re.compile(r"[-+]?[0-9]+$"), [*"-+0123456789"])
_Loader.add_implicit_resolver(
    _NUMBERS[1],
    re.compile(
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    [*"-+.0123456789"],
)
_Loader.add_constructor(_NUMBERS[0], _decimal)


def _measure(text: str, where: str, limits: YamlLimits) -> None:
    """Check a text against the limits, in time and memory that are proportional to its length.

    Raises:
        YamlError: if it exceeds them.
    """
    # The anchor of each open list or mapping, and the number of values in it so far.
    open_nodes: list[tuple[str | None, int]] = [(None, 0)]
    sizes: dict[str, int] = {}
    total = 0

    def add(inner: int, new: int) -> None:
        nonlocal total
        anchor, inside = open_nodes[-1]
        open_nodes[-1] = anchor, inside + inner
        total += new
        if total > limits.values:
            raise _too_much(
                where, "values", limits, f"at least {total}, with each alias counted as the values that it stands for"
            )

    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in open_nodes):
                raise YamlError(
                    f"{where}: the alias *{event.anchor} stands inside the value that it names. Write the value out."
                )
            # The loader raises an error for an unknown alias.
            count = sizes.get(event.anchor or "", 1)
            add(count, count)
        elif isinstance(event, yaml.ScalarEvent):
            if event.anchor:
                sizes[event.anchor] = 1
            add(1, 1)
        elif isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, 1))
            if len(open_nodes) - 1 > limits.depth:
                raise _too_much(where, "depth", limits, f"at least {len(open_nodes) - 1} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, inside = open_nodes.pop()
            if anchor:
                sizes[anchor] = inside
            # The values inside were already counted.
            add(inside, 1)


def _too_much(where: str, name: str, limits: YamlLimits, received: str) -> YamlError:
    return YamlError(
        f"{where}: expected at most {getattr(limits, name)} for the {name} of a YAML text. Received: {received}. Raise "
        f"the limit if the text is right: {VARIABLE}='{name}=...'"
    )


def mapping(documents: list[Any], where: str) -> Mapping[str, Any]:
    """The `name: value` pairs of the only document of a text. An empty text gives an empty mapping.

    Raises:
        YamlError: if there are several documents, the document is not a mapping, or a name is not a text.
    """
    if len(documents) > 1:
        raise YamlError(f"{where}: expected one document. Received: {len(documents)}, with --- between them")
    values = documents[0] if documents and documents[0] is not None else {}
    if not isinstance(values, dict):
        raise YamlError(f"{where}: expected settings as name: value. Received: {shortened(values)}")
    wrong = [key for key in values if not isinstance(key, str)]
    if wrong:
        raise YamlError(f"{where}: expected names that are texts. Received: {shortened(wrong[0])}")
    return values
