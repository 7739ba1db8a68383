"""Find the best learning rate by the validation cases, because the held-out cases must not influence the choice."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components import console, storage
from components.files import read_json, write_json
from components.train.settings import TRAINING


def compare_trainings(
    models: Sequence[str], table: str, summary: str, *, title: str
) -> Mapping[str, Mapping[str, Any]]:
    """Order trainings by the mean Dice of the classes in their best validation.

    Args:
        models: the folders of the step train, by path or URL; one small file is read from each.
        table: the JSON file to write, with the best training first.
        summary: the Markdown file to write.
        title: the heading; if it is empty, "Learning rates".

    Returns:
        The metadata of the table: the best learning rate, its Dice, and the number of trainings.
    """
    rows = sorted(map(_row, models), key=lambda row: -row["dice"])
    write_json(table, rows)
    lines = [f"| {row['learning_rate']:g} | {row['dice']:.3f} | {row['loss']:.4f} |" for row in rows]
    columns = ["| learning rate | Dice, validation | last loss |", "| --- | --- | --- |"]
    head = [f"# {title or 'Learning rates'}", "", *columns]
    Path(summary).parent.mkdir(parents=True, exist_ok=True)
    Path(summary).write_text("\n".join([*head, *lines, ""]), encoding="utf-8")
    best = f"best learning rate {rows[0]['learning_rate']:g}, with a Dice of {console.figure(rows[0]['dice'])}"
    console.result("sweep", f"{best} on the validation cases")
    return {"table": {"learning_rate": rows[0]["learning_rate"], "dice": rows[0]["dice"], "trainings": len(rows)}}


def _row(model: str) -> dict[str, float]:
    training = read_json(storage.local(storage.join(model, TRAINING)))
    rate, dice = training["learning_rate"], training["best"]["dice"]
    return {"learning_rate": rate, "dice": dice, "loss": training["history"]["loss"][-1]}
