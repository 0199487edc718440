"""The import of matplotlib, for all modules: without its warnings, and also if the home folder is not writable."""

import functools
import logging
from types import ModuleType
from typing import TYPE_CHECKING

from schemas.errors import UserError

if TYPE_CHECKING:
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of `width` x `height` inches, which is laid out when it is drawn."""
    # pyplot is not used: it keeps global state and may need a display
    figure: Figure = _matplotlib().figure.Figure(figsize=(width, height), layout="constrained")
    return figure


def colormap(name: str) -> "Colormap":
    """Return one of matplotlib's colour maps."""
    colours: Colormap = _matplotlib().colormaps[name]
    return colours


@functools.cache
def _matplotlib() -> ModuleType:
    """Import the package. If the home folder is not writable, it uses a folder in TMPDIR and removes it at exit.

    Raises UserError if neither is writable.
    """
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)  # no warnings about that folder and the font cache built in it
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
