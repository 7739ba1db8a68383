"""The results of a study as a table and a plot."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.resolution_study.settings import Arm, Settings

Results = Mapping[Arm, Sequence[dict]]
_METRICS = (("liver_dice_per_case", "liver Dice"), ("lesion_dice_per_case", "lesion Dice"))
_COLOURS = ("#0f766e", "#c2410c")


def table(results: Results) -> str:
    """The results as a Markdown table: the mean over seeds and, after ±, the standard deviation between seeds."""
    lines = [
        "| arm | seeds | liver Dice | lesion Dice | lesions found | liver ASSD, mm | CPU s per update |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for arm, runs in results.items():
        cells = [
            _spread([_metric(run, name) for run in runs])
            for name in ("liver_dice_per_case", "lesion_dice_per_case", "lesion_recall", "liver_assd")
        ]
        speed = np.median([run["cpu_per_update"] for run in runs])
        lines.append(f"| {arm.title} | {len(runs)} | {' | '.join(cells)} | {speed:.2f} |")
    return "\n".join(lines) + "\n"


def plot(results: Results, settings: Settings, path: Path) -> Path:
    """Plot Dice over resolution, and the detection of lesions by size, and return the path.

    Every seed is a dot; error bars are one standard deviation between seeds.
    """
    figure = Figure((10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for recipe, (line, shift) in zip(settings.recipes, _looks(len(settings.recipes)), strict=True):
        chosen = {arm: runs for arm, runs in results.items() if arm.recipe == recipe}
        for (name, label), colour in zip(_METRICS, _COLOURS, strict=True):
            look = {"color": colour, "capsize": 4}
            whole = {arm.resolution: [_metric(r, name) for r in runs] for arm, runs in chosen.items() if not arm.patch}
            means, spreads = [np.mean(v) for v in whole.values()], [np.std(v) for v in whole.values()]
            title = f"{label}, whole image, {recipe}"
            left.errorbar(list(whole), means, spreads, marker="o", linestyle=line, label=title, **look)
            for size, dots in whole.items():
                left.plot([size] * len(dots), dots, ".", color=colour, alpha=0.35)
            for arm, runs in chosen.items():
                if arm.patch:
                    dots = [_metric(run, name) for run in runs]
                    title = f"{label}, {arm.patch}³ patches, {recipe}"
                    place = arm.resolution * shift
                    box = {"marker": "s", "markerfacecolor": "white", "linestyle": "none"}
                    left.errorbar(place, np.mean(dots), np.std(dots), label=title, **look, **box)
    left.set_xticks(list(settings.resolutions), [f"{n}³" for n in settings.resolutions])
    left.set_ylim(0, 1)
    left.set_xlabel("resolution of the image")
    left.set_ylabel("Dice per case")
    left.legend(frameon=False, fontsize=8)
    _detection(right, results)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e2e8f0")
        axes.set_axisbelow(True)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    return path


def _looks(recipes: int) -> list[tuple[str, float]]:
    """For each recipe, the line style of whole images, and how far to the right of them its patches are drawn."""
    lines = ("--", "-") if recipes == 2 else ("-", "--", ":", "-.")
    return [(lines[number % len(lines)], 1.04 + 0.03 * number) for number in range(recipes)]


def _detection(axes, results: Results) -> None:
    borders = (0, 10, 20, np.inf)
    names = ("< 10 mm", "10 to 20 mm", "≥ 20 mm")
    width = 0.8 / len(results)
    for number, (arm, runs) in enumerate(results.items()):
        shares = []
        for low, high in pairwise(borders):
            hits = [[found for size, found in run["lesions"] if low <= size < high] for run in runs]
            shares.append([np.mean(h) for h in hits if h])
        places = np.arange(len(names)) + (number - (len(results) - 1) / 2) * width
        means, spreads = [np.mean(s) if s else 0 for s in shares], [np.std(s) if s else 0 for s in shares]
        axes.bar(places, means, width * 0.9, yerr=spreads, capsize=2, label=arm.title)
    axes.set_xticks(range(len(names)), names)
    axes.set_ylim(0, 1)
    axes.set_ylabel("lesions found, overlap > 0.5")
    axes.legend(frameon=False, fontsize=8)


def _metric(run: dict, name: str) -> float:
    value = run["summary"]["metrics"][name]["defined"]
    return float("nan") if value is None else value


def _spread(values: Sequence[float]) -> str:
    known = [v for v in values if np.isfinite(v)]
    return f"{np.mean(known):.3f} ± {np.std(known):.3f}" if known else "–"
