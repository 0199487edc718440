"""The one place that imports matplotlib: in silence, also where it finds no folder of its own to write to."""

import functools
import logging
from types import ModuleType
from typing import TYPE_CHECKING

from schemas.errors import UserError

if TYPE_CHECKING:
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of `width` x `height` inches, which is laid out when it is drawn."""
    # Not by pyplot: no global state, no display.
    figure: Figure = _matplotlib().figure.Figure(figsize=(width, height), layout="constrained")
    return figure


def colormap(name: str) -> "Colormap":
    """One of matplotlib's colour maps."""
    colours: Colormap = _matplotlib().colormaps[name]
    return colours


@functools.cache
def _matplotlib() -> ModuleType:
    """The package. Where its folder at home cannot be written, it makes one in TMPDIR and removes it at exit.

    Raises UserError where it finds neither.
    """
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)  # of that folder, and of the fonts that are listed anew in it
    try:
        import matplotlib
        import matplotlib.figure
    except OSError as error:
        raise UserError(
            "matplotlib can write neither to the home folder nor to TMPDIR; set MPLCONFIGDIR to a folder that it can "
            f"write ({' '.join(str(error).split())[:200]})"
        ) from error
    finally:
        logger.setLevel(level)
    return matplotlib
