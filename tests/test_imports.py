"""The modules of the project do not import one another in circles, and the package imports nothing from the
application.
"""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("keras_spatial", "keras_spatial_command", "datasets", "components", "pipelines", "benchmarks")


@pytest.fixture(scope="module")
def imports():
    """The modules of the project that each module imports, at its top or in a function, except only for types."""
    files = {name_of(path): path for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    return {name: set(imported(ast.parse(path.read_text()), files)) - {name} for name, path in files.items()}


def name_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(tree, modules):
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                below = f"{node.module}.{alias.name}"
                yield from (name for name in [below if below in modules else node.module] if name in modules)
        else:
            yield from imported(node, modules)


def test_no_modules_import_one_another_in_a_circle(imports):
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_a_circle_would_be_found():
    tree = ast.parse("def f():\n    from a import b\n    import c\nif TYPE_CHECKING:\n    import d")
    assert set(imported(tree, {"a", "a.b", "c", "d"})) == {"a.b", "c"}


@pytest.mark.parametrize(
    ("package", "others"),
    [
        ("keras_spatial", ("datasets", "components", "pipelines", "benchmarks")),
        ("datasets", ("components", "pipelines", "benchmarks")),
        ("components", ("pipelines", "benchmarks")),
        ("pipelines", ("benchmarks",)),
    ],
)
def test_imports_point_one_way(imports, package, others):
    for name, found in imports.items():
        if name.split(".")[0] == package:
            assert not [other for other in found if other.split(".")[0] in others], name


def test_the_parts_of_a_step_import_downwards(imports):
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    order = page.split("Imports point one way: `")[1].split("`")[0].split(" -> ")
    assert order[0] == "model"
    assert order[-1] == "layout"
    parts = {name: part for name in imports for part in order if f"{name}.".startswith(f"keras_spatial.{part}.")}
    places = {name: order.index(part) for name, part in parts.items()}
    assert len(places) > len(order)
    for name, place in places.items():
        assert not [other for other in imports[name] if places.get(other, place) < place], name
