"""The container image: pinned, not run as root, and made of what is in the checkout."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def instructions():
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [tuple(line.split(maxsplit=1)) for line in lines]


def test_the_base_image_is_pinned_to_a_patch_version():
    images = [value.split()[0] for name, value in instructions() if name == "FROM"]
    assert all(re.fullmatch(r"python:3\.\d+\.\d+-slim-[a-z]+", image) for image in images)
    assert len(set(images)) == 1


def test_the_image_does_not_run_as_root():
    users = [value for name, value in instructions() if name == "USER"]
    assert users[-1] == "10001:10001"


def test_everything_copied_is_there():
    for name, value in instructions():
        if name == "COPY" and not value.startswith("--from"):
            for source in value.split()[:-1]:
                assert (ROOT / source).exists(), source


def test_steps_find_the_application_part():
    environment = next(value for name, value in instructions() if name == "ENV")
    assert "PYTHONPATH=/app" in environment
    assert "TF_ENABLE_ONEDNN_OPTS=1" in environment
    copied = {value.split()[0] for name, value in instructions() if name == "COPY"}
    assert {"components", "datasets", "pipelines"} <= copied


def test_the_gpu_variant_is_pinned_and_has_a_tag_of_its_own():
    text = (ROOT / "Dockerfile").read_text()
    assert re.search(r"-t \S+:[\d.]+-cuda --build-arg EXTRAS=app,stores,cuda", text)
    pins = (ROOT / "constraints.txt").read_text()
    for library in ("nvidia-cudnn-cu12", "nvidia-nccl-cu12", "nvidia-cublas-cu12"):
        assert re.search(rf"^{library}==", pins, re.MULTILINE), library


def test_the_nodes_driver_is_found_where_gke_mounts_it():
    environment = next(value for name, value in instructions() if name == "ENV")
    assert "LD_LIBRARY_PATH=/usr/local/nvidia/lib64" in environment


def test_constraints_pin_every_direct_dependency():
    pins = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().replace(" ", "").splitlines()
        if "==" in line
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + [
        requirement for extra in ("app", "medical", "stores") for requirement in project["optional-dependencies"][extra]
    ]
    names = {re.match(r"[A-Za-z0-9_.-]+", requirement)[0].lower().replace("_", "-") for requirement in wanted}
    assert names - {"keras-spatial"} <= set(pins)
