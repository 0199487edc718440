"""The public names, as directives for mkdocstrings."""

import bevt_core
import bevt_core.api
import pipeline
import trainer
from bevt_core.lazy import public_modules

RE_EXPORTING = {package.__name__ for package in (bevt_core, bevt_core.api, pipeline, trainer)}


def markdown() -> str:
    """Each public name with its docstring."""
    return "\n".join(f"::: {defining_module(name)}.{name}\n" for name in bevt_core.__all__)


def defining_module(name: str) -> str:
    """Return the module that defines a public name, for which packages may stand in."""
    module = "bevt_core"
    while module in RE_EXPORTING:
        module = public_modules(module)[name]
    return module
