import io

import matplotlib.pyplot as plt
import pytest
from IPython.core.pylabtools import print_figure
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox

from convlib.figures import Fixed, WholeFigure


@pytest.fixture
def axes() -> Axes:
    figure, axes = plt.subplots(figsize=(4, 3), dpi=100, layout="constrained", FigureClass=WholeFigure)
    assert isinstance(figure, WholeFigure)
    axes.plot([0, 1], [0, 1], label="line")
    axes.set_title("A title of a length", loc="left")
    axes.set_ylabel("label")
    return axes


def own(axes: Axes) -> Figure:
    figure = axes.get_figure(root=True)
    assert figure
    return figure


def test_notebooks_print_the_figure_whole_and_laid_out(axes: Axes) -> None:
    printed = imread(io.BytesIO(print_figure(axes.figure)))  # type: ignore[no-untyped-call]
    assert printed.shape == (3 * 100 + 20, 4 * 100 + 20, 4)  # with the tenth of an inch that notebooks add
    box = Figure.get_tightbbox(own(axes))
    assert [*Bbox.union([box, Bbox([[0, 0], [4, 3]])]).extents] == [0, 0, 4, 3]  # nothing stands out


def test_a_saved_figure_equals_that_of_matplotlib(axes: Axes) -> None:
    figure, plain = plt.subplots(figsize=(4, 3), dpi=100, layout="constrained")
    plain.plot([0, 1], [0, 1], label="line")
    plain.set_title("A title of a length", loc="left")
    plain.set_ylabel("label")
    pictures = []
    for each in (own(axes), figure):
        each.savefig(file := io.BytesIO(), format="png")
        pictures.append(imread(io.BytesIO(file.getvalue())))
    assert (pictures[0] == pictures[1]).all()


@pytest.mark.parametrize("fixed", [False, True])
def test_it_is_drawn_once(axes: Axes, monkeypatch: pytest.MonkeyPatch, fixed: bool) -> None:
    drawn: list[object] = []
    draw = Line2D.draw
    monkeypatch.setattr(axes.lines[0], "draw", lambda renderer: drawn.append(draw(axes.lines[0], renderer)))
    if fixed:
        own(axes).set_layout_engine(Fixed())
    plt.draw_all()  # as pyplot does after each cell
    print_figure(axes.figure)  # type: ignore[no-untyped-call]
    assert len(drawn) == 1


def test_a_screen_that_shows_it_is_drawn_anew(axes: Axes) -> None:
    class Screen(FigureCanvasAgg):
        pass

    assert not own(axes).stale
    Screen(own(axes))
    assert own(axes).stale
    own(axes).canvas.draw()
    assert not own(axes).stale
    axes.set_title("Another")
    assert own(axes).stale
