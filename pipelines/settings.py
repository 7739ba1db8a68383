"""The settings of a run, from a YAML file and `--set name=value`, checked before anything starts."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, get_origin

import yaml

from components.faults import shortened
from components.settings import is_structured, is_text
from components.validate.settings import Settings, SettingsError, check
from pipelines.bounded_yaml import YamlError, mapping, parse_yaml, read_yaml


def refuse_unread(settings: Settings, pipeline: str, read: Collection[str]) -> None:
    """Refuse settings that a pipeline would ignore.

    Args:
        settings: the settings of the run.
        pipeline: its name, for the message.
        read: names of the settings that it reads.

    Raises:
        SettingsError: naming each setting that has another value than its default and is not read.
    """
    unread = [
        name
        for name, field in Settings.model_fields.items()
        if name not in read and getattr(settings, name) != field.default
    ]
    if unread:
        lines = [
            f"{name}: the pipeline {pipeline} does not read this setting ({Settings.model_fields[name].description}) "
            f"Received: {shortened(getattr(settings, name))}. Leave it out."
            for name in unread
        ]
        raise SettingsError("\n".join(lines))


def load(file: str | Path | None = None, assignments: Iterable[str] = (), **defaults: Any) -> Settings:
    """Settings from defaults, then a YAML file, then `name=value` strings; the later one counts.

    Raises:
        SettingsError: unknown name (with the nearest known one), wrong type or range, or unreadable file.
    """
    values: dict[str, Any] = dict(defaults)
    if file is not None:
        values |= _read(Path(file))
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals:
            raise SettingsError(f"--set: expected name=value. Received: {text!r}")
        values[name.strip()] = _parse(name.strip(), value)
    return check(values)


def _parse(name: str, value: str) -> Any:
    """A string as it is for text fields, otherwise as YAML."""
    field = Settings.model_fields.get(name)
    if field is None or is_text(field.annotation):
        return value
    if is_structured(field.annotation) and not value.lstrip().startswith(("[", "{")):
        value = f"[{value}]" if get_origin(field.annotation) is tuple else f"{{{value}}}"
    try:
        documents = parse_yaml(value, f"--set {name}")
    except YamlError as error:
        raise SettingsError(str(error)) from error
    if len(documents) > 1:
        raise SettingsError(f"--set {name}: expected one value. Received: {shortened(value)}")
    return documents[0] if documents else None


def _read(path: Path) -> Mapping[str, Any]:
    try:
        return mapping(read_yaml(path), str(path))
    except YamlError as error:
        raise SettingsError(str(error)) from error


def dump(settings: Settings) -> str:
    """The YAML form, with each setting's description."""
    lines = []
    for name, field in Settings.model_fields.items():
        lines += [f"# {field.description}", yaml.safe_dump({name: settings.model_dump(mode="json")[name]}).strip()]
    return "\n".join(lines) + "\n"
