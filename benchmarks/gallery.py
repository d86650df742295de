"""The pictures of docs/gallery.md, each drawn by the page's own lines: `python -m benchmarks.gallery`."""

import re
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
from PIL import Image

PAGE = Path(__file__).parent.parent / "docs" / "gallery.md"
COLOURS = 40
#: A picture of the page, if there is one, and the block of code below it.
BLOCK = re.compile(r"(?:!\[[^\]]*\]\((images/gallery/\w+\.png)\)\s+)?```python\n(.*?)```", re.DOTALL)


def read_blocks(page: str) -> Iterator[tuple[str, str]]:
    """Give each block of code with the picture above it, or an empty name."""
    for found in BLOCK.finditer(page):
        yield found[1] or "", found[2]


def draw_gallery(page: Path) -> None:
    """Run the page's blocks one after the other and save the figure that each with a picture leaves."""
    names: dict[str, object] = {}
    for picture, block in read_blocks(page.read_text("utf-8")):
        exec(compile(block, str(page), "exec"), names)  # noqa: S102  # our own page
        if picture:
            save_figure(page.parent / picture)
        plt.close("all")


def save_figure(path: Path) -> None:
    """Save the figure in few enough colours to load quickly."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plt.gcf().savefig(path, bbox_inches="tight", metadata={"Software": None})
    with Image.open(path) as whole:
        few = whole.convert("RGB").quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size / 1_024:.0f} KB")


if __name__ == "__main__":
    plt.switch_backend("agg")
    draw_gallery(PAGE)
