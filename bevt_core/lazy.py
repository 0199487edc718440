"""Lazy imports of a package's public names, so that importing the package stays cheap.

A package's `__init__.py`, or a module of names, imports its public names below `if TYPE_CHECKING:`, where type checkers
find them. At run time the same lines are parsed here, to find the module of each name.
"""

import ast
import functools
import importlib
import inspect
import sys
from typing import TypeGuard

from bevt_core.import_names import collision


def public_name(package: str, name: str) -> object:
    """Import `name` from the module listed for it in `package`, and set it as an attribute of the package.

    Raises ImportError that names the file if another project's module was imported instead of ours.
    """
    try:
        value = getattr(importlib.import_module(public_modules(package)[name]), name)
    except (ImportError, AttributeError) as error:
        if hidden := collision():
            raise ImportError(hidden) from error
        raise
    setattr(sys.modules[package], name, value)
    return value


@functools.cache
def public_modules(package: str) -> dict[str, str]:
    """Return the module of each public name: the imports below `if TYPE_CHECKING:` in the package's source."""
    body = ast.parse(inspect.getsource(sys.modules[package])).body
    checked = [line for block in body if _is_for_type_checkers(block) for line in block.body]
    imports = [line for line in checked if isinstance(line, ast.ImportFrom)]
    return {alias.name: str(line.module) for line in imports for alias in line.names}


def _is_for_type_checkers(block: ast.stmt) -> TypeGuard[ast.If]:
    return isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
