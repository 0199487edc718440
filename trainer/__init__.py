"""Train, test and inspect models on datasets, with torch.distributed. Datasets are written by `pipeline`.

This module exports the public Python API (docs/how-to/python.md); names are imported on first use.
"""

from typing import TYPE_CHECKING

import bevt_core  # noqa: F401 - sets how torch's threads wait, before torch is imported

if TYPE_CHECKING:
    from bevt_core.models.stems import normalise
    from trainer.api.clips import AugmentedClips, LabelledClips, TokenClips
    from trainer.api.features import features, file_features
    from trainer.api.runs import load_run
    from trainer.api.training import (
        load_finetune_recipe,
        load_pretrain_recipe,
        run_finetuning,
        run_pretraining,
    )
    from trainer.clips.sources import FileClips, StoreClips
    from trainer.testing.evaluate import evaluate
    from trainer.testing.predict import predict
else:

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from bevt_core.lazy import public_name

        return public_name(__name__, name)


__all__ = [
    "AugmentedClips",
    "FileClips",
    "LabelledClips",
    "StoreClips",
    "TokenClips",
    "evaluate",
    "features",
    "file_features",
    "load_finetune_recipe",
    "load_pretrain_recipe",
    "load_run",
    "normalise",
    "predict",
    "run_finetuning",
    "run_pretraining",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
