"""The plots of the report, as SVG for the page."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from components.console import count
from keras_spatial.evaluation import UNDEFINED, CaseMetrics, LabelledCase, Stratum, Summary

LIVER, LESION = "#0f766e", "#c2410c"
_PARTS = {"dice_liver": LIVER, "dice_lesion": LESION}
_RUNS = ("#0f766e", "#c2410c", "#4338ca", "#a16207", "#be185d", "#475569")
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # Text stays text, so that it is searchable and has the page's font.
    "font.family": "sans-serif",
    "font.size": 10,
    # Names and titles are the user's text: a dollar sign must not begin a formula, nor an unclosed one raise an error.
    "text.parse_math": False,
    "text.usetex": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#94a3b8",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e2e8f0",
    "xtick.color": "#475569",
    "ytick.color": "#475569",
    "legend.frameon": False,
}
_MANY = 40


def dice_per_case(cases: Sequence[CaseMetrics]) -> str:
    """Plot the Dice of liver and lesion: one pair of marks per case, or box plots for more than 40 cases."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        liver, lesion = [c.liver.dice for c in cases], [c.lesion.dice for c in cases]
        if len(cases) > _MANY:
            _boxes(axes, {"liver": liver, "lesion": lesion})
        else:
            places = np.arange(len(cases))
            axes.vlines(places, np.minimum(liver, lesion), np.maximum(liver, lesion), color="#cbd5e1", zorder=1)
            axes.plot(places, liver, "o", color=LIVER, label="liver")
            axes.plot(places, lesion, "D", color=LESION, label="lesion")
            names = [_short(c.case) for c in cases]
            axes.set_xticks(places, names, rotation=0 if sum(map(len, names)) < 50 else 90)
            axes.set_xlim(-0.6, len(cases) - 0.4)
            _legend(axes, 2)
        axes.set_ylim(-0.03, 1.03)
        axes.set_ylabel("Dice")

    return _svg(draw, "Dice of liver and lesion in every case")


def dice_of_classes(cases: Sequence[LabelledCase]) -> str:
    """Plot the Dice of every class over the cases, as a box with all its points in the colour of the class."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        names = list(cases[0].classes)
        rng = np.random.default_rng(0)
        for place, (name, colour) in enumerate(zip(names, _cycle(), strict=False)):
            data = [case.classes[name].dice for case in cases]
            axes.boxplot(
                data, positions=[place], widths=0.5, showfliers=False, medianprops={"color": colour, "linewidth": 2}
            )
            axes.plot(place + rng.uniform(-0.12, 0.12, len(data)), data, "o", color=colour, alpha=0.6, markersize=4)
        axes.set_xticks(range(len(names)), [_short(n) for n in names], rotation=0 if len(names) < 6 else 90)
        axes.set_xlim(-0.6, len(names) - 0.4)
        axes.set_ylim(-0.03, 1.03)
        axes.set_ylabel("Dice")

    return _svg(draw, "Dice of every class over the cases")


def distances(cases: Sequence[CaseMetrics]) -> str:
    """Plot the average and the maximum surface distances of liver and lesion over the cases."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots(1, 2)
        for place, name, title in ((axes[0], "assd", "average"), (axes[1], "msd", "maximum")):
            parts = {
                part: [v for c in cases if (v := getattr(getattr(c, part), name)) != UNDEFINED]
                for part in ("liver", "lesion")
            }
            _boxes(place, parts)
            place.set_ylim(0, 1.08 * max((v for values in parts.values() for v in values), default=1) or 1)
            place.set_title(f"{title} distance, mm", fontsize=10)

    return _svg(draw, "Surface distances of liver and lesion voxels")


def detection_by_size(strata: Sequence[Stratum]) -> str:
    """Plot the share of the reference lesions that were found, by diameter, with intervals."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        places = np.arange(len(strata))
        for shift, name, label, colour in (
            (-0.2, "recall_touched", "touched", "#94a3b8"),
            (0.2, "recall", "overlap > 0.5", LESION),
        ):
            estimates = [getattr(s, name) for s in strata]
            values = np.array([e.defined or 0 for e in estimates])
            axes.bar(places + shift, values, 0.36, color=colour, label=label)
            for place, e in zip(places + shift, estimates, strict=True):
                if e.low is not None:
                    axes.plot([place, place], [e.low, e.high], color="#0f172a", linewidth=1.2)
        axes.set_xticks(places, [f"{_range(s)}\n{count(s.lesions, 'lesion')}" for s in strata])
        axes.set_ylim(0, 1.03)
        axes.set_ylabel("share detected")
        _legend(axes, 2)

    return _svg(draw, "Lesion detection by size")


def curves(history: Mapping[str, Sequence[float]], every: int = 1) -> list[str]:
    """Plot the losses and other metrics over the epochs, with dashed lines for training and solid lines for validation.

    Args:
        history: the `History.history` of Keras.
        every: the number of epochs between two validations.

    Returns:
        The plots; there are none without a history.
    """
    return [_curves(names, history, every, title) for title, names in _grouped(history).items() if names]


def _curves(names: Sequence[str], history: Mapping[str, Sequence[float]], every: int, title: str) -> str:
    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for name, colour in _coloured(names).items():
            for key, line, step in ((name, "--", 1), (f"val_{name}", "-", every)):
                if key in history:
                    epochs = step * np.arange(1, len(history[key]) + 1)
                    # There may be one more validation after the last epoch.
                    if name in history:
                        epochs = np.minimum(epochs, len(history[name]))
                    mark = "o" if len(epochs) == 1 else None
                    axes.plot(epochs, history[key], line, color=colour, marker=mark, label=_short(_name(key), 60))
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _legend(axes, 2)

    return _svg(draw, title, height=3.2 + 0.2 * max(0, len(names) - 2))


def compared(titles: Sequence[str], summaries: Sequence[Summary]) -> str:
    """Plot the Dice of several runs with their intervals."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for shift, name, label, colour, mark in (
            (-0.12, "liver_dice_per_case", "liver", LIVER, "o"),
            (0.12, "lesion_dice_per_case", "lesion", LESION, "D"),
        ):
            for place, summary in enumerate(summaries):
                e = summary.metrics[name]
                if e.defined is None:
                    continue
                axes.plot(e.defined, place + shift, mark, color=colour, label=label if place == 0 else None)
                if e.low is not None and e.high is not None:
                    axes.plot([e.low, e.high], [place + shift] * 2, color=colour, linewidth=1.5)
        axes.set_yticks(range(len(titles)), [_short(t, 28) for t in titles])
        axes.set_ylim(len(titles) - 0.5, -0.5)
        axes.set_xlim(-0.02, 1.02)
        axes.set_xlabel("Dice per case")
        _legend(axes, 2)

    return _svg(draw, "Dice of the compared runs", height=1.6 + 0.5 * len(titles))


def compared_curves(histories: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Plot the training loss of several runs; empty text if no run has a history."""
    lines = {title: h.get("loss", ()) for title, h in histories.items()}
    if not any(len(values) for values in lines.values()):
        return ""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for (title, values), colour in zip(lines.items(), _cycle(), strict=False):
            if len(values):
                axes.plot(np.arange(1, len(values) + 1), values, color=colour, label=_short(title, 28))
        axes.set_xlabel("epoch")
        axes.set_ylabel("training loss")
        _legend(axes, 2)

    return _svg(draw, "Training loss of the compared runs")


def _svg(draw: Callable[[Figure], None], title: str, width: float = 6.4, height: float = 3.2) -> str:
    with mpl.rc_context({**_STYLE, "svg.hashsalt": title}):
        figure = Figure((width, height), layout="constrained")
        figure.patch.set_alpha(0)
        draw(figure)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = out.getvalue()
    text = text[text.index("<svg") :].replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)
    # Matplotlib numbers its groups from 0 in every figure, but an id must be unique in a page. So only ids that are
    # referred to are kept, which the salt above makes different in every figure.
    used = set(re.findall(r"#([\w.-]+)", text))
    return Markup(re.sub(r' id="([^"]*)"', lambda m: m[0] if m[1] in used else "", text))


def _boxes(axes: Axes, values: Mapping[str, Sequence[float]]) -> None:
    rng = np.random.default_rng(0)
    for place, (name, colour) in enumerate((("liver", LIVER), ("lesion", LESION))):
        data = values[name]
        if not data:
            axes.text(place, 0.5, "none", ha="center", color="#475569", transform=axes.get_xaxis_transform())
            continue
        axes.boxplot(
            data, positions=[place], widths=0.5, showfliers=False, medianprops={"color": colour, "linewidth": 2}
        )
        axes.plot(place + rng.uniform(-0.12, 0.12, len(data)), data, "o", color=colour, alpha=0.6, markersize=4)
    axes.set_xticks([0, 1], ["liver", "lesion"])
    axes.set_xlim(-0.6, 1.6)


def _grouped(history: Mapping[str, Sequence[float]]) -> dict[str, list[str]]:
    names = list(dict.fromkeys(k.removeprefix("val_") for k in history))
    losses = [n for n in names if n.endswith("loss")]
    rest = [n for n in names if n not in losses and n not in ("lr", "learning_rate")]
    return {"Loss while training": losses, "Metrics while training": rest}


def _name(key: str) -> str:
    return f"{key.removeprefix('val_')}, validation" if key.startswith("val_") else f"{key}, training"


def _coloured(names: Sequence[str]) -> dict[str, str]:
    """A colour for each metric: liver and lesion have the same colours in all plots, and others take the free ones."""
    free = iter(colour for colour in _cycle() if colour not in [_PARTS.get(name) for name in names])
    return {name: _PARTS[name] if name in _PARTS else next(free) for name in names}


def _cycle() -> Sequence[str]:
    return _RUNS * 10


def _legend(axes: Axes, columns: int) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=columns, fontsize=9)


def _range(stratum: Stratum) -> str:
    if np.isinf(stratum.below):
        return f"≥ {stratum.above:g} mm"
    return f"{stratum.above:g}–{stratum.below:g} mm"


def _short(text: str, length: int = 14) -> str:
    # An SVG is XML, which has no control characters; Matplotlib hides labels that begin with an underscore.
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    text = f"\N{ZERO WIDTH SPACE}{text}" if text.startswith("_") else text
    return text if len(text) <= length else f"{text[: length - 1]}…"
