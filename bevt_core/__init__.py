"""The method, the code shared by pipeline and trainer, and the public Python API.

Users import from here (docs/how-to/python.md). A name is imported when it is first used.
"""

import os
from typing import TYPE_CHECKING

# Loader processes and torch's threads share the CPUs. Threads that spin while they wait slow everything down, sixfold
# if two programs share two cores (docs/log.md). torch reads this when it is imported, and child processes inherit it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if TYPE_CHECKING:
    from bevt_core.api import (
        AugmentedClips,
        FileClips,
        LabelledClips,
        StoreClips,
        TokenClips,
        evaluate,
        features,
        file_features,
        list_sources,
        load_finetune_recipe,
        load_pretrain_recipe,
        load_recipe,
        load_run,
        normalise,
        predict,
        run_finetuning,
        run_pretraining,
        scan,
        tokenize,
        verify,
    )
    from bevt_core.dataset.frame_store import FrameStore
    from bevt_core.dataset.samples import read_sample, read_view
    from bevt_core.dataset.token_set import TokenSet
    from bevt_core.models.build import SWIN_SIZES, build_bevt, build_classifier
    from bevt_core.tokenizers import load_tokenizer
    from bevt_core.weights.export import HubModel
else:

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from bevt_core.lazy import public_name

        return public_name(__name__, name)


__all__ = [
    "SWIN_SIZES",
    "AugmentedClips",
    "FileClips",
    "FrameStore",
    "HubModel",
    "LabelledClips",
    "StoreClips",
    "TokenClips",
    "TokenSet",
    "build_bevt",
    "build_classifier",
    "evaluate",
    "features",
    "file_features",
    "list_sources",
    "load_finetune_recipe",
    "load_pretrain_recipe",
    "load_recipe",
    "load_run",
    "load_tokenizer",
    "normalise",
    "predict",
    "read_sample",
    "read_view",
    "run_finetuning",
    "run_pretraining",
    "scan",
    "tokenize",
    "verify",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
