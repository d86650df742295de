"""The figure of the study: how well each score finds the planted order."""

import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from convlib.plots import BLUE, DPI, GREEN, GREY, ORANGE, RED, WIDTH

#: Name in the legend, colour and marker: told apart without colour too.
STYLES = {
    "convlib": ("convlib", BLUE, "o"),
    "phi": ("phi (Mixpanel)", ORANGE, "s"),
    "PostHog odds ratio": ("odds ratio (PostHog)", RED, "^"),
    "Amplitude first days": ("first seven days (Amplitude)", GREEN, "D"),
    "last-touch share": ("last-touch share", GREY, "v"),
}
NORMAL = 1.96


def draw_order(table: pd.DataFrame, path: Path, *, logs: int) -> None:
    """Draw the mean agreement of each score in each scenario with its interval, and save it.

    Args:
        table: As `measures.summarise_order` gives it.
        path: Where to.
        logs: How many each mean is of.
    """
    wanted = list(table.index.unique("scenario"))
    figure, ax = plt.subplots(figsize=(WIDTH, 1.6 + 0.62 * len(wanted)), dpi=DPI, layout="constrained")
    for number, (score, (label, colour, marker)) in enumerate(STYLES.items()):
        rows = table.xs(score, level="score").loc[wanted]
        place = np.arange(len(wanted)) + (number - (len(STYLES) - 1) / 2) * 0.15
        size = 7 if score == "convlib" else 5
        bars = ax.errorbar(
            rows["mean"], place, xerr=NORMAL * rows["error"], fmt=marker, color=colour, markersize=size, label=label
        )
        bars.lines[0].set_zorder(3)
    for edge in np.arange(len(wanted) - 1) + 0.5:
        ax.axhline(edge, color="#E5E7EB", linewidth=0.8)
    ax.axvline(0, color="#111827", linewidth=0.8)
    ax.set_yticks(np.arange(len(wanted)), [textwrap.fill(name, 18) for name in wanted], fontsize=10)
    ax.set_ylim(len(wanted) - 0.5, -0.5)
    ax.set_xlim(-1, 1.03)
    ax.set_xticks(
        [-1, -0.5, 0, 0.5, 1], ["−1\nreversed", "−0.5", "0\nno better\nthan chance", "0.5", "1\nthe true\norder"]
    )
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(left=False)
    figure.suptitle("Who finds the true order of the micros?", fontsize=12, fontweight="bold", x=0.02, ha="left")
    ax.set_xlabel(f"Kendall's tau with the truth, mean of {logs} logs, 95% intervals", fontsize=9)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    figure.savefig(path)
    plt.close(figure)
