"""The public names of the packages, as directives for mkdocstrings."""

import bevt_core
import pipeline
import trainer
from bevt_core.lazy import public_modules


def markdown() -> str:
    """A section per package, with what each of its public names is."""
    parts = []
    for package in (pipeline, bevt_core, trainer):
        name = package.__name__
        parts.append(f"## {name}\n\n`from {name} import ...`\n")
        parts += [f"::: {public_modules(name)[each]}.{each}\n" for each in package.__all__]
    return "\n".join(parts)
