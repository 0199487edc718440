"""`bevt repair`: make again just what `bevt verify` finds broken."""

import shutil
from pathlib import Path
from typing import Any

from pipeline.job import tokenize
from pipeline.verify import broken_parts
from schemas.errors import UserError
from schemas.recipes import TokenizeRecipe


def repair(recipe: TokenizeRecipe, **job: Any) -> dict[str, Any]:
    """Remove the parts whose bytes are wrong and run the job, which makes what is missing.

    `recipe` and `job` are those of the `tokenize` that made the data set: a part's bytes are a function of them, so the
    mended data set is the old one to the byte. Returns the job's summary and `removed`, the paths that were broken.
    """
    out = Path(recipe.out)
    if not (out / "frames").is_dir():
        raise UserError(f"{out}: no frames/ in it; give the command that made the data set")
    removed = list(broken_parts(out))
    for path in removed:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return {**tokenize(recipe, **job), "removed": [str(path.relative_to(out)) for path in removed]}
