"""Charts as SVG, one for light pages and one for dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
from matplotlib.figure import Figure

from bench.report import RAW

_THEMES = {"light": ("#1f2328", "#d0d7de"), "dark": ("#e6edf3", "#30363d")}
_COLOURS = ("#3b82f6", "#e0752d", "#22a06b", "#a35bd6")


def lines(
    name: str,
    series: Mapping[str, Sequence[tuple[float, float, float, float]]],
    *,
    x: str,
    y: str,
) -> str:
    """Draw series of (x, median, least, most) over a logarithmic x; return the chart's name for `Report`."""
    RAW.mkdir(exist_ok=True)
    mpl.rcParams["svg.hashsalt"] = name  # the same figures give the same file
    for theme, (ink, grid) in _THEMES.items():
        figure = Figure(figsize=(7, 3.4), layout="constrained")
        axes = figure.subplots()
        for (label, points), colour in zip(series.items(), _COLOURS, strict=False):
            xs, medians, least, most = zip(*points, strict=True)
            axes.plot(xs, medians, marker="o", color=colour, label=label)
            axes.fill_between(xs, least, most, color=colour, alpha=0.15, linewidth=0)
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        axes.set_xlabel(x, color=ink)
        axes.set_ylabel(y, color=ink)
        axes.tick_params(colors=ink)
        axes.grid(visible=True, color=grid, linewidth=0.6)
        axes.legend(frameon=False, labelcolor=ink)
        for spine in axes.spines.values():
            spine.set_color(grid)
        figure.savefig(RAW / f"{name}-{theme}.svg", transparent=True, metadata={"Date": None})
    return name
