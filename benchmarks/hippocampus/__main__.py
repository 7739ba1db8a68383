"""Cross-validation on the hippocampus, and the ensemble of its folds.

    python -m benchmarks.hippocampus run FOLDER --out runs/hippocampus
    python -m benchmarks.hippocampus segment --out runs/hippocampus CASE.nii.gz -o SEGMENTATION.nii.gz

FOLDER contains `dataset.json`, `imagesTr` and `labelsTr` of Task04. A finished fold is kept; a fold that was
interrupted resumes from its last backup. `segment` averages the probabilities of all finished folds.
"""

import argparse
import dataclasses
import json
from pathlib import Path

from benchmarks.hippocampus.settings import Settings
from components.files import write_json


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hippocampus", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="Train and score folds.")
    running.add_argument("folder", type=Path, help="The folder of the data set.")
    running.add_argument("--folds", type=int, nargs="*", help="The folds to run; all of them by default.")
    running.add_argument("--steps", type=int, default=Settings.steps, help="The number of training steps of a fold.")
    running.add_argument("--policy", default=Settings().policy, help="Keras's dtype policy of the network.")
    running.add_argument("--save", action="store_true", help="Keep the results of all folds in benchmarks/results.")
    segmenting = commands.add_parser("segment", help="Segment new cases with the ensemble.")
    segmenting.add_argument("images", type=Path, nargs="+", help="The volumes to segment.")
    segmenting.add_argument("-o", "--output", type=Path, required=True, help="The folder of the results.")
    for command in (running, segmenting):
        command.add_argument("--out", type=Path, required=True, help="The folder of the benchmark.")
    chosen = parser.parse_args(arguments)
    if chosen.command == "run":
        settings = dataclasses.replace(Settings(), steps=chosen.steps, policy=chosen.policy)
        return run(chosen.folder, chosen.out, settings, chosen.folds, save=chosen.save)
    return segment_cases(chosen.out, chosen.images, chosen.output)


def run(source: Path, out: Path, settings: Settings, folds: list[int] | None = None, *, save: bool = False) -> int:
    """Run the given folds, and report all folds that are finished. `save` keeps the results if all folds are."""
    path = out / "settings.json"
    wanted = json.loads(json.dumps(dataclasses.asdict(settings)))
    if path.exists() and json.loads(path.read_text(encoding="utf-8")) != wanted:
        raise SystemExit(f"{out} has a benchmark with other settings, see {path}. Choose another --out.")
    write_json(path, wanted)
    # Imported here, so that `--help` and a wrong folder do not load TensorFlow.
    from benchmarks.hippocampus.fold import CASES, run_fold
    from benchmarks.hippocampus.report import rows_of, write_report
    from benchmarks.results import finish

    finished: dict = {}
    for fold in range(settings.folds) if folds is None else folds:
        run_fold(source, out, fold, settings)
        there = [k for k in range(settings.folds) if (out / f"fold-{k}" / CASES).is_file()]
        finished = {k: run_fold(source, out, k, settings) for k in there}
        print(f"\n{write_report(out, finished, settings.folds)}", flush=True)
    if save and len(finished) == settings.folds:
        finish("hippocampus", rows_of(out, finished), wanted, "python -m benchmarks.hippocampus run FOLDER", save=True)
    return 0


def segment_cases(out: Path, images: list[Path], output: Path) -> int:
    """Segment volumes with the mean of the probabilities of all finished folds."""
    import keras_spatial as ks
    from benchmarks.hippocampus.fold import MODEL
    from keras_spatial.inference import segment
    from keras_spatial.volumes import read_task

    folders = sorted(path.parent for path in out.glob(f"fold-*/{MODEL}"))
    if not folders:
        raise SystemExit(f"{out}: no trained fold. Run `python -m benchmarks.hippocampus run` first.")
    settings = Settings(**json.loads((out / "settings.json").read_text(encoding="utf-8")))
    distribution = ks.SpatialParallel(ks.device_mesh(settings.mesh), settings.layout)
    models = [ks.load_model(f / MODEL, distribution=distribution, compile=False) for f in folders]
    for image in images:
        found = segment(models, image, output / image.name, flips=settings.flips, task=read_task(folders[0]))
        print(f"{image} -> {found.path}, {len(models)} networks, {sum(found.seconds.values()):.1f} s", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
