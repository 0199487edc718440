"""The public names of `pipeline` and `trainer`, under bevt's own name: `from bevt_core import predict`.

`bevt_core` re-exports them. Nothing else in this package imports the two packages, and this module only when a name is
first used.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline import list_sources, load_recipe, scan, tokenize, verify
    from trainer import (
        AugmentedClips,
        FileClips,
        LabelledClips,
        StoreClips,
        TokenClips,
        evaluate,
        features,
        file_features,
        load_finetune_recipe,
        load_pretrain_recipe,
        load_run,
        normalise,
        predict,
        run_finetuning,
        run_pretraining,
    )
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
    "list_sources",
    "load_finetune_recipe",
    "load_pretrain_recipe",
    "load_recipe",
    "load_run",
    "normalise",
    "predict",
    "run_finetuning",
    "run_pretraining",
    "scan",
    "tokenize",
    "verify",
]
