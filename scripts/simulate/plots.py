"""A plot of a simulation: the share of nodes that are done, over time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from results import Results


def plot(found: Mapping[str, Results], path: Path) -> None:
    """Draw the share of nodes that are done, over multiples of the bound.

    Raises:
        ImportError: there is no matplotlib.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for name, one in found.items():
        share = [(number + 1) / len(one.times) for number in range(len(one.times))]
        axes.step(one.times, share, where="post", label=name)
    axes.axvline(1.0, color="#555555", linestyle=":")
    axes.set_xlim(left=0)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("time, as a multiple of the fluid bound")
    axes.set_ylabel("nodes done")
    axes.legend(fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
