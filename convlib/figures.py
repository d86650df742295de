"""Figures that are laid out to their edges, and so are drawn once when they are printed."""

from typing import Any

from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import LayoutEngine, PlaceHolderLayoutEngine
from matplotlib.transforms import Bbox


class Fixed(LayoutEngine):
    """The layout of a figure whose axes were put in place already."""

    _adjust_compatible = _colorbar_gridspec = True

    def execute(self, fig: Figure) -> None:
        """Leave everything where it is."""


class WholeFigure(Figure):
    """A figure that notebooks print as it is.

    To print a tight box, as notebooks do, matplotlib draws a figure once to lay it out, looks at all that was drawn for
    what stands out, and draws it again. Here the layout leaves nothing outside, so that the figure is its own box.
    Before that, pyplot draws each new figure at the end of its cell, for a screen that a printed one does not have.
    """

    @property
    def stale(self) -> bool:
        """Whether a screen that shows it has to be drawn anew."""
        return bool(super().stale) and type(self.canvas) is not FigureCanvasAgg

    @stale.setter
    def stale(self, value: bool) -> None:
        Figure.stale.fset(self, value)  # type: ignore[attr-defined]  # a property

    def draw(self, renderer: RendererBase) -> None:
        """Draw it; what only asks for the layout before printing gets no more."""
        engine = self.get_layout_engine()
        if self.canvas.is_saving() and not isinstance(engine, PlaceHolderLayoutEngine | None):
            engine.execute(self)
        else:
            super().draw(renderer)

    def get_tightbbox(self, *_: Any, **__: Any) -> Bbox:
        """Give the whole figure, in inches."""
        return Bbox.from_bounds(0, 0, *self.get_size_inches())
