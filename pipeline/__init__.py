"""Raw data -> frame store and token set, on Ray Data.

Users import from here (docs/how-to/python.md). A name is imported when it is first used.
"""

from typing import TYPE_CHECKING

import bevt_core  # noqa: F401 - sets how torch's threads wait, before torch is imported

if TYPE_CHECKING:
    from pipeline.api import load_recipe
    from pipeline.check.verify import verify
    from pipeline.job.run import tokenize
    from pipeline.look.scan import scan
    from pipeline.sources import list_sources
else:

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from bevt_core.lazy import public_name

        return public_name(__name__, name)


__all__ = ["list_sources", "load_recipe", "scan", "tokenize", "verify"]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
