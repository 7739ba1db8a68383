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
        pipeline: the name of the pipeline, for the message.
        read: the names of the settings that the pipeline reads.

    Raises:
        SettingsError: if a setting that the pipeline does not read has another value than its default; the message
            names each of them.
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
    """Read settings from defaults, a YAML file and `name=value` strings, of which later ones override earlier ones.

    Args:
        file: the path of the YAML file, or None.
        assignments: the strings.
        **defaults: the defaults, by the name of the setting.

    Raises:
        SettingsError: if a setting is unknown or has the wrong type or range, or the file cannot be read. The message
            names the setting, and the nearest known one for an unknown name.
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
    """The value of a setting in a string: the string itself for text, and YAML for everything else."""
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
    """All settings as YAML, each with its description as a comment."""
    lines = []
    for name, field in Settings.model_fields.items():
        lines += [f"# {field.description}", yaml.safe_dump({name: settings.model_dump(mode="json")[name]}).strip()]
    return "\n".join(lines) + "\n"
