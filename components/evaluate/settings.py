"""The settings of an evaluation."""

from typing import Self

from pydantic import Field, model_validator

from components.settings import LocalSettings, MeshSettings


class EvaluationSettings(MeshSettings):
    """The settings of an evaluation."""

    evaluation_mesh: str = Field(
        "",
        description="The mesh of the evaluation, if it has fewer devices than the training, all in one process; if "
        "empty, the training's mesh.",
    )
    evaluation_layout: str = Field("", description="The layout on that mesh; if empty, the training's layout.")
    thresholds: bool = Field(
        False, description="Whether the best intensity thresholds are scored as well, for comparison."
    )

    @property
    def placed(self) -> MeshSettings:
        """The mesh and layout that the evaluation uses.

        Raises:
            ValueError: if mesh and layout do not fit together.
        """
        return MeshSettings(
            mesh=self.evaluation_mesh or self.mesh,
            layout=self.evaluation_layout or self.layout,
            accelerator=self.accelerator,
            gpus=self.gpus,
            memory_growth=self.memory_growth,
        )

    @model_validator(mode="after")
    def _evaluation_mesh_and_layout_fit_together(self) -> Self:
        try:
            self.placed  # noqa: B018 - made to be checked.
        except ValueError as error:
            raise ValueError(f"evaluation_mesh: {error}") from None
        return self


class LocalEvaluationSettings(EvaluationSettings, LocalSettings):
    """The settings of an evaluation on one machine."""

    @property
    def processes_of_evaluation(self) -> int:
        """How many processes evaluate: as many as train on the training's mesh, or one on another mesh."""
        return 1 if self.evaluation_mesh else self.processes
