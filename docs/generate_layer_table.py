"""Write the table of docs/layers.md from the catalogue of cases that tests/lowering compares with Keras.

python docs/generate_layer_table.py          # from the repository root
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "layers.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"


def table() -> str:
    """The table as Markdown: a row for every layer of the catalogue, and its cases by number of image axes."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "lowering")]
    import catalogue
    import keras

    groups = {
        "1D": catalogue.LAYERS_1D,
        "2D": catalogue.LAYERS_2D,
        "3D": catalogue.LAYERS_3D,
        "channels first": catalogue.CHANNELS_FIRST,
    }
    rows: dict[str, dict[str, list[str]]] = {}
    for group, cases in groups.items():
        for name, case in cases.items():
            for layer in _layers(case.model(), keras):
                rows.setdefault(layer, {}).setdefault(group, []).append(name)
    lines = [f"| layer | {' | '.join(groups)} |", "| --- " * (len(groups) + 1) + "|"]
    for layer in sorted(rows):
        cells = [", ".join(rows[layer].get(group, [])) for group in groups]
        lines.append(f"| `{layer}` | {' | '.join(cells)} |")
    names = ", ".join(catalogue.OPERATIONS)
    return "\n".join([*lines, "", f"Cases of `keras.ops` in functional models: {names}."])


def _layers(model, keras) -> list[str]:
    """The classes of layers in a case, but for the pointwise layer before it."""
    import keras_spatial as ks

    first = next(layer for layer in model.layers if isinstance(layer, keras.layers.Dense))
    nested = [inner for layer in model.layers if layer is not first for inner in layer._flatten_layers()]
    names = [type(layer).__name__ for layer in nested if isinstance(layer, keras.layers.Layer)]
    names = [name for name in names if name not in ("InputLayer", "Sequential", "Functional")]
    return sorted({name for name in names if hasattr(ks.layers, name) or hasattr(keras.layers, name)})


def updated(page: str) -> str:
    """The page with a fresh table between its marks."""
    return re.sub(f"{BEGIN}.*{END}", lambda _: f"{BEGIN}\n{table()}\n{END}", page, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text()))
