"""Groups of settings. Each setting is defined once, for the step, the pipelines and the YAML file.

A group is a pydantic model. Its fields are the parameters of the component that takes it, with their help
(`components.base`), the parameters of the pipelines and the fields of the YAML file (`pipelines.settings`), and the
values that each process of the step gets. A new setting needs a new field, and the code that reads it.
"""

import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, get_origin

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from components import pure
from components.files import parse_json

_G = TypeVar("_G", bound="Group")
_Check = TypeVar("_Check", bound=Callable[..., None])
_BINDS = "binds"


def binding(*names: str) -> Callable[[_Check], _Check]:
    """Mark a method of a group that checks settings against each other.

    The check applies only to a pipeline that reads all of these settings, because a pipeline that does not read one of
    them refuses any other value for it than the default.

    Args:
        names: the names of the settings that the method reads.
    """

    def mark(check: _Check) -> _Check:
        setattr(check, _BINDS, names)
        return check

    return mark


class Group(BaseModel):
    """Settings that belong together. Lists and mappings may be given as JSON, as KFP's user interface does."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, protected_namespaces=())
    looped: ClassVar[tuple[str, ...]] = ()
    """The fields over whose items a pipeline loops, which KFP needs as lists and not as JSON."""
    whole: ClassVar[bool] = True
    """Whether all of these settings are read together, so that all checks between them apply from the start."""

    @pydantic.field_validator("*", mode="before")
    @classmethod
    def _read_json(cls, value: Any, about: pydantic.ValidationInfo) -> Any:
        if not isinstance(value, str) or not is_structured(cls.model_fields[str(about.field_name)].annotation):
            return value
        try:
            return parse_json(value)
        except ValueError as error:
            raise ValueError(f"expected JSON ({error})") from None

    @pydantic.field_validator("*", mode="after")
    @classmethod
    def _texts_stay_what_they_are(cls, value: Any) -> Any:
        """Refuse texts that YAML, KFP, a file or a page would change."""
        for text in _texts(value):
            fault = fault_of_text(text)
            if fault:
                raise ValueError(f"expected {fault}")
        return value

    def part(self, group: type[_G]) -> _G:
        """The settings that also belong to another group, as a value of that group."""
        return group(**{name: getattr(self, name) for name in group.model_fields})

    @pydantic.model_validator(mode="after")
    def _bound(self) -> Self:
        if self.whole:
            self.check_bound(type(self).model_fields)
        return self

    def check_bound(self, read: Collection[str]) -> None:
        """Run those checks between settings whose settings are all read; see `binding`.

        Args:
            read: the names of the settings that are read.

        Raises:
            ValueError: if a check fails; the message names the setting, its value and what was expected.
        """
        for kind in type(self).__mro__:
            for check in vars(kind).values():
                bound = getattr(check, _BINDS, None)
                if bound is not None and set(bound) <= set(read):
                    check(self)

    @classmethod
    def parameters(cls) -> dict[str, tuple[type, Any, str]]:
        """The type of each field in KFP, its default in that type, and its description, by the name of the field."""
        return {
            name: (cls.kfp_type(name), cls.kfp_value(name, field.default), str(field.description))
            for name, field in cls.model_fields.items()
        }

    @classmethod
    def kfp_type(cls, name: str) -> type:
        """The type of a field in KFP, which has str, int, float, bool and list; all other types are given as JSON."""
        annotation = cls.model_fields[name].annotation
        if name in cls.looped:
            return list
        return annotation if annotation in (str, int, float, bool) else str

    @classmethod
    def kfp_value(cls, name: str, value: Any) -> Any:
        """The value of a field in the type that it has in KFP."""
        if name in cls.looped:
            return list(value)
        return json.dumps(value) if isinstance(value, tuple | Mapping) else value


class LayoutSettings(Group):
    """How images are split, in the notation of `keras_spatial`."""

    mesh: str = Field("rows:2, columns:2", description="The axes of the device mesh and their sizes.")
    layout: str = Field("x:rows, y:columns", description="Which image axis is split over which mesh axis.")

    @pydantic.model_validator(mode="after")
    def _mesh_and_layout_fit_together(self) -> Self:
        for name, read in (("mesh", lambda: self.mesh_axes), ("layout", lambda: self.image_axes)):
            try:
                read()
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        return self

    @property
    def mesh_axes(self) -> dict[str, int]:
        """The size of each mesh axis, by its name."""
        return pure.load("layout").parse_mesh(self.mesh)

    @property
    def image_axes(self) -> dict[str, str]:
        """The mesh axis of each sharded image axis, by the name of the image axis."""
        return pure.load("layout").parse_layout(self.layout, list(self.mesh_axes))

    def shards(self, axis: str) -> int:
        """The number of shards along an image axis or the batch axis."""
        return self.mesh_axes[self.image_axes[axis]] if axis in self.image_axes else 1


class MeshSettings(LayoutSettings):
    """The devices over which images are split."""

    accelerator: Literal["auto", "cpu", "gpu", "tpu"] = Field(
        "auto",
        description="The kind of the mesh's devices, which must be present; auto takes GPUs if there are any, else "
        "CPUs.",
    )
    gpus: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (), description="The numbers of the GPUs to use, as TensorFlow counts them; empty for all that it sees."
    )
    memory_growth: bool = Field(
        False, description="Whether TensorFlow takes a GPU's memory as it needs it, rather than all of it at the start."
    )

    @pydantic.model_validator(mode="after")
    def _gpus_are_used(self) -> Self:
        if self.gpus and self.accelerator in ("cpu", "tpu"):
            raise ValueError(
                f"gpus: no GPU is used. Received: {list(self.gpus)} with accelerator {self.accelerator}. Leave it out."
            )
        if self.memory_growth and self.accelerator in ("cpu", "tpu"):
            raise ValueError(
                f"memory_growth: it concerns GPUs. Received: true with accelerator {self.accelerator}. Leave it out."
            )
        return self


class LocalSettings(MeshSettings):
    """The processes of this machine that share a mesh."""

    processes: int = Field(
        1,
        ge=1,
        le=256,
        description="The number of processes on this machine that share the mesh, in a training, an evaluation on the "
        "same mesh, and a segmentation.",
    )

    @pydantic.model_validator(mode="after")
    def _processes_share_the_mesh(self) -> Self:
        devices = math.prod(self.mesh_axes.values())
        if devices % self.processes:
            raise ValueError(
                f"processes: expected a divisor of the mesh's {devices} devices. Received: {self.processes}. Change "
                "processes or mesh."
            )
        if self.processes > 1 and self.accelerator == "tpu":
            raise ValueError(
                f"processes: one process starts all cores of a TPU slice. Received: {self.processes} with accelerator "
                "tpu. Leave it out."
            )
        return self


def is_structured(annotation: Any) -> bool:
    """Whether a field holds a list or a mapping."""
    return get_origin(annotation) in (tuple, dict)


def is_text(annotation: Any) -> bool:
    """Whether a field holds a text."""
    return annotation is str or get_origin(annotation) is Literal


def fault_of_text(text: str) -> str | None:
    """What a text would have to be to reach its reader unchanged; None if it does reach it unchanged.

    In arguments, KFP replaces `{{$...}}` by facts about the task, such as its inputs and the names of secrets. A lone
    surrogate, from a command line that is not UTF-8, cannot be written, and what is not visible disturbs a terminal.
    """
    if len(text) > 10_000:
        return f"at most 10000 characters. Received: {len(text)}"
    if "{{" in text and "$" in text[text.index("{{") :]:
        return "a text without {{$, which Kubeflow Pipelines would replace"
    if not all(map(pure.load("_texts").is_visible, text)):
        return "printable characters in UTF-8 on one line"
    return None


def _texts(value: Any) -> Iterator[str]:
    """All texts in a value, including the names in mappings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _texts(name)
            yield from _texts(inner)
    elif isinstance(value, tuple | list):
        for inner in value:
            yield from _texts(inner)
