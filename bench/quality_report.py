"""Figures as a Markdown page with plots beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import PercentFormatter

from bench.measure import markdown_table
from bench.quality_data import Truths
from detectors.layout import Floats

RATES = np.geomspace(0.0005, 0.2, 60)


@dataclass(frozen=True)
class Bar:
    """What the first metrics of a row have to reach."""

    least: tuple[float, ...]

    def verdict(self, figures: Sequence[float]) -> str:
        """Whether the means reach it, with the bar itself."""
        bar = "/".join(f"{each:.3g}" for each in self.least)
        reached = all(figure >= each for figure, each in zip(figures, self.least, strict=False))
        return f"{'reached' if reached else 'missed'} ({bar})"


@dataclass(frozen=True)
class Table:
    """A section of the page: rows are a name, a cell a metric, and a verdict."""

    title: str
    about: str
    metrics: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    verdicts: bool = field(default=True)

    def markdown(self) -> str:
        """The section."""
        header = ["", *self.metrics, *(["bar"] if self.verdicts else [])]
        return f"## {self.title}\n\n{self.about}\n\n{markdown_table(header, self.rows)}\n"


@dataclass(frozen=True)
class Figure:
    """A plot of how much fraud is held as more events are held; one line per curve."""

    name: str
    title: str
    fraud: Truths
    points: Floats
    curves: Mapping[str, Floats]

    def draw(self, folder: Path) -> Path:
        """Write it as SVG, the same bytes for the same figures."""
        canvas, axes = _axes(self.title, "share of events held", "share of fraud points held")
        stolen = self.points * self.fraud
        for name, scores in self.curves.items():
            saved = np.concatenate(([0.0], np.cumsum(stolen[np.argsort(-scores, kind="stable")]))) / stolen.sum()
            axes.plot(RATES, saved[np.round(RATES * len(scores)).astype(int)], label=name)
        axes.legend(loc="lower right")
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_ylim(0, 1)
        return _save(canvas, folder, self.name)


@dataclass(frozen=True)
class Columns:
    """A plot of groups of columns: `values` of each name, one a group; `floor` is drawn as a line (chance)."""

    name: str
    title: str
    groups: Sequence[str]
    values: Mapping[str, Sequence[float]]
    floor: float = 0.5

    def draw(self, folder: Path) -> Path:
        """Write it as SVG, the same bytes for the same figures."""
        canvas, axes = _axes(self.title, "", "AUC ROC, mean over seeds")
        width = 0.8 / len(self.values)
        for place, (name, values) in enumerate(self.values.items()):
            axes.bar(np.arange(len(self.groups)) - 0.4 + width * (place + 0.5), values, width * 0.92, label=name)
        axes.axhline(self.floor, color="black", linewidth=0.8, linestyle="--")
        axes.set_xticks(range(len(self.groups)), self.groups)
        axes.set_ylim(0, 1)
        canvas.legend(loc="outside lower center", ncols=len(self.values), frameon=False)
        return _save(canvas, folder, self.name)


def _axes(title: str, x: str, y: str) -> tuple[Canvas, Axes]:
    canvas = Canvas(figsize=(8.0, 4.5), layout="constrained")
    axes = canvas.add_subplot()
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, axis="y", alpha=0.3)
    return canvas, axes


def _save(canvas: Canvas, folder: Path, name: str) -> Path:
    path = folder / f"quality-{name}.svg"
    with mpl.rc_context({"svg.hashsalt": "pointguard", "svg.fonttype": "none"}):
        canvas.savefig(path, metadata={"Date": None})
    return path


def row_of(name: str, figures: Sequence[Sequence[float]], bar: Bar | None) -> tuple[str, ...]:
    """A row of a table: each metric as its mean with the range over seeds, then the verdict on the means."""
    by_metric = list(zip(*figures, strict=True))
    verdict = bar.verdict([float(np.mean(values)) for values in by_metric]) if bar else ""
    return (name, *(spread(values) for values in by_metric), verdict)


def spread(values: Sequence[float]) -> str:
    """A mean with its range over seeds, three digits."""
    mean, low, high = f"{np.mean(values):.3f}", f"{min(values):.3f}", f"{max(values):.3f}"
    return mean if low == high else f"{mean} ({low}–{high})"
