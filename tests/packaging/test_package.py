"""`pip install .` installs only the package, which is typed and can be imported without the application's packages."""

import email
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import keras_spatial as ks

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def dist(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder


@pytest.fixture(scope="module")
def wheel(dist) -> zipfile.ZipFile:
    (path,) = dist.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_has_the_package_and_the_arguments_of_its_command(wheel):
    top = {name.split("/")[0] for name in wheel.namelist()}
    assert {name for name in top if not name.endswith(".dist-info")} == {
        "keras_spatial",
        "keras_spatial_command",
    }


def test_every_module_and_the_type_marker_are_in_the_wheel(wheel):
    expected = {str(p.relative_to(ROOT)) for p in (ROOT / "keras_spatial").rglob("*.py")} | {"keras_spatial/py.typed"}
    assert expected <= set(wheel.namelist())


def test_metadata_name_licence_version_and_requirements(wheel):
    (name,) = [n for n in wheel.namelist() if n.endswith(".dist-info/METADATA")]
    metadata = email.message_from_bytes(wheel.read(name))
    assert metadata["Version"] == ks.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_all("License-File")
    required = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    assert {r.split(">")[0].split("=")[0].split("<")[0] for r in required} == {
        "tensorflow",
        "keras",
        "mesh-tensorflow",
        "numpy",
    }
    assert all("<" in r or "==" in r or r.startswith("numpy") for r in required)


def test_the_source_distribution_builds_the_same(dist):
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = archive.getnames()
    assert any(n.endswith("/keras_spatial/__init__.py") for n in names)
    assert any(n.endswith("/LICENSE") for n in names)
    # The whole package, and nothing that only runs from a checkout.
    top = {name.split("/")[1] for name in names if name.count("/") > 1}
    assert top == {"keras_spatial", "keras_spatial.egg-info", "keras_spatial_command"}


def test_import_loads_none_of_the_optional_packages():
    def loaded(what: str) -> set[str]:
        code = f"import sys, {what}; print(*(m.split('.')[0] for m in sys.modules))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
        return set(done.stdout.split())

    optional = {"nibabel", "SimpleITK", "matplotlib", "apache_beam", "tensorflow_datasets", "kfp"}
    # Keras itself loads plotting packages that it finds.
    assert not optional & (loaded("keras_spatial") - loaded("tensorflow, keras"))


def test_import_uses_nothing_deprecated():
    # TensorFlow's and Mesh-TensorFlow's own warnings are theirs; this package's are errors.
    code = (
        "import warnings, tensorflow, mesh_tensorflow\n"
        "warnings.filterwarnings('error', category=DeprecationWarning, module='keras_spatial')\n"
        "import keras_spatial"
    )
    setup = "import keras_spatial.mesh_tensorflow\n"
    done = subprocess.run([sys.executable, "-c", setup + code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
