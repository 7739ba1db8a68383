"""`python -m benchmarks.resolution_study --preset small --out runs/study-small`

The preset `causes` trains with every recipe, each of which differs from the old one in one respect.

Every finished run (arm and seed) is kept; the same command resumes where it was interrupted.
"""

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.resolution_study.settings import PRESETS, RECIPES, Arm, Settings


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.resolution_study", description=__doc__)
    parser.add_argument(
        "--preset", choices=PRESETS, default="small", help="On 2 cores, small takes 5 minutes and full 2 hours."
    )
    parser.add_argument(
        "--recipes", nargs="+", choices=RECIPES, help="How the networks are trained; by default as the preset says."
    )
    parser.add_argument("--out", type=Path, required=True, help="The folder of phantoms, results, table and plot.")
    chosen = parser.parse_args(arguments)
    settings = PRESETS[chosen.preset]
    if chosen.recipes:
        settings = replace(settings, recipes=tuple(dict.fromkeys(chosen.recipes)))
    _check_folder(chosen.out, settings)
    results = run(settings, chosen.out)

    from benchmarks.resolution_study.report import plot, table

    text = table(results)
    (chosen.out / "table.md").write_text(text, encoding="utf-8")
    plot(results, settings, chosen.out / "study.png")
    print(f"\n{text}\nPlot: {chosen.out / 'study.png'}")
    return 0


def run(settings: Settings, out: Path) -> dict[Arm, list[dict]]:
    """Run a study, and return all runs. Finished runs are read from their files."""
    # Imported here, so that `--help` and a wrong folder do not load TensorFlow.
    from benchmarks.resolution_study.data import load, phantoms
    from benchmarks.resolution_study.train import build, score, train

    folder = out / "phantoms"
    training, held_out = phantoms(folder, settings)
    results: dict[Arm, list[dict]] = {}
    for arm in settings.arms:
        paths = {seed: out / "runs" / f"{arm.name}-seed{seed}.json" for seed in settings.seeds}
        missing = [seed for seed, path in paths.items() if not path.exists()]
        if missing:
            print(f"{arm.name}: seeds {missing}", flush=True)
            cases = load(folder, training, arm)
            model, predictor = build(arm, settings)
        for seed in missing:
            found = train(model, cases, arm, settings, seed) | score(predictor, folder, held_out, arm)
            _write(paths[seed], {"arm": asdict(arm), "seed": seed} | found)
        results[arm] = [json.loads(path.read_text(encoding="utf-8")) for path in paths.values()]
    return results


def _check_folder(out: Path, settings: Settings) -> None:
    path = out / "settings.json"
    recipes = {name: asdict(RECIPES[name]) for name in settings.recipes}
    wanted = json.loads(json.dumps(asdict(settings) | {"recipes": recipes}))
    if path.exists() and json.loads(path.read_text(encoding="utf-8")) != wanted:
        raise SystemExit(f"{out} has a study with other settings, see {path}. Choose another --out.")
    _write(path, wanted)


def _write(path: Path, value: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".part-{path.name}")
    part.write_text(json.dumps(value, indent=1), encoding="utf-8")
    part.replace(path)


if __name__ == "__main__":
    raise SystemExit(main())
