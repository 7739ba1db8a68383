"""Write docs/ecosystem.md from the tables of networks that tests/ecosystem compares with Keras.

python docs/generate_ecosystem.py          # from the repository root
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "ecosystem.md"

BEFORE = """# Networks of other libraries

`ks.partition` takes models as their authors wrote them. This page says which networks of three libraries are compared
with plain Keras, and which are not, and why: `keras.applications`, keras-hub's vision networks, and medicai's 2D and 3D
networks for medical images.

Each network of a table is a test: it is built small, with random weights, split over the mesh, and called under a
`tf.GradientTape`, all in float64. Its outputs, its gradients with respect to every input and weight, the state of its
normalization layers and the order of its weights must be those of plain Keras, to 1e-9 of an array's largest entry.
Networks that compute something in float32 whatever they are given are compared to 1e-5: TensorFlow interpolates in
float32, and some layers of keras-hub normalize in it. Many sizes are chosen so that the mesh does not divide them.

*Replicated* means that some layers have no rule, mostly attention over windows or tokens, and run on whole tensors:
`ks.partition(model, distribution, unsupported="replicate")`. The networks that continuous
integration runs, and so vouches for, are marked; the rest are tests that run on request:
`pytest tests/ecosystem --all-networks`.

The page is made from the tables in `tests/ecosystem` by `python docs/generate_ecosystem.py`. A network that a library
exports and that is not on this page makes the test suite fail.
"""


def page() -> str:
    """The whole page as Markdown."""
    for folder in (ROOT, ROOT / "tests"):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    from ecosystem.libraries import LIBRARIES

    return "\n".join([BEFORE, *(_section(library) for library in LIBRARIES.values())])


def _section(library) -> str:
    lines = [f"## {library.title}", "", "| network | mesh | mode | layers without a rule | in CI |", "| --- " * 5 + "|"]
    for name, network in library.networks.items():
        exported, *details = name.split(",", 1)
        cells = [
            f"`{exported}`{','.join(['', *details])}",
            network.mesh,
            "training" if network.training else "inference",
            "replicated" if network.replicated else "none",
            "yes" if network.quick else "on request",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "Not compared:", "", "| networks | why |", "| --- | --- |"]
    for reason, names in library.left_out.items():
        lines.append(f"| {', '.join(f'`{name}`' for name in sorted(names.split()))} | {reason} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    PAGE.write_text(page())
