"""Run the Dockerfile's steps in a clean virtual environment, since Docker is not at hand everywhere.

    python .ci/image_steps.py FOLDER

What `RUN` says is run as it stands, but for paths of the image (`/src`, `/wheels`, `/app`), which lie in FOLDER, and
the making of a user. Then a step's code is loaded from what was copied, by what was installed.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def instructions(text: str) -> list[tuple[str, str]]:
    lines = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]


def main(folder: Path) -> None:
    if folder.exists():
        raise SystemExit(f"{folder} is there already; name a folder that is not.")
    (folder / "wheels").mkdir(parents=True)
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    environment = {**os.environ, "PATH": f"{folder / 'venv' / 'bin'}:{os.environ['PATH']}"}
    environment.pop("PYTHONPATH", None)
    directory = folder

    def inside(path: str) -> Path:
        return folder / path.lstrip("/") if path.startswith("/") else directory / path

    def of_folder(command: str) -> str:
        command = re.sub(r"(?<![\w.}])/(wheels|src|app)\b", rf"{folder}/\1", command)
        return re.sub(r"&&\s*useradd [^&]*", "", command)

    for name, value in instructions((ROOT / "Dockerfile").read_text()):
        if name == "WORKDIR":
            directory = inside(value)
            directory.mkdir(parents=True, exist_ok=True)
        elif name in ("ARG", "ENV"):
            pairs = re.findall(r"(\w+)=(\S+)", value)
            environment |= {key: of_folder(setting) for key, setting in pairs}
        elif name == "COPY" and not value.startswith("--from"):
            *sources, target = value.split()
            for source in sources:
                place = inside(target)
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    place = place / source if target.endswith("/") else place
                    place.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(ROOT / source, place)
        elif name == "RUN":
            print(f"+ {of_folder(value)}", flush=True)
            subprocess.run(["sh", "-ec", of_folder(value)], cwd=directory, env=environment, check=True)
    python = folder / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pipelines", "--help"], cwd=folder / "app", env=environment, check=True)
    code = "import keras_spatial, components.train.fit, datasets.lits; print(keras_spatial.__file__)"
    where = subprocess.run([python, "-c", code], cwd=folder / "app", env=environment, check=True, capture_output=True)
    installed = Path(where.stdout.decode().split()[-1])
    if folder / "venv" not in installed.parents:
        raise SystemExit(f"keras_spatial was loaded from {installed}, not from what the image installs")
    print("The image's steps work.")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
