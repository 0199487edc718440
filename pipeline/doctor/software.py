"""Python, the libraries, name collisions, and the weights that the names of recipes need."""

import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from bevt_core.import_names import OUR_NAMES, foreign_modules, rival_distributions
from bevt_core.media.video.decoders import PREFERRED, check_decoder
from bevt_core.tokenizers import EMBEDDED, PUBLISHED, find_tokenizer
from bevt_core.weights.packaged import packaged_names
from pipeline.doctor.finding import Finding, ok_unless
from schemas.errors import UserError


def python() -> Finding:
    value = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    advice = "bevt needs Python 3.11 or later"
    return ok_unless("python", value, sys.version_info < (3, 11), advice, "problem")


def pytorch() -> Finding:
    import torch

    built_for = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPUs only"
    parts = [torch.__version__, f"built for {built_for}"]
    if torch.version.cuda and torch.distributed.is_available() and torch.distributed.is_nccl_available():
        parts.append(f"NCCL {'.'.join(map(str, torch.cuda.nccl.version()))}")
    if torch.version.cuda and torch.backends.cudnn.is_available():
        parts.append(f"cuDNN {torch.backends.cudnn.version()}")
    return Finding("torch", ", ".join(parts))


def decoders() -> Finding:
    import av

    ffmpeg = ".".join(map(str, av.library_versions["libavcodec"]))
    names = [f"PyAV {av.__version__} (libavcodec {ffmpeg})", f"simplejpeg {version('simplejpeg')}"]
    troubles = []
    for decoder in PREFERRED:
        try:
            names.append(f"{decoder} {version(decoder)}")
            check_decoder(decoder)
        except PackageNotFoundError:  # PyAV decodes all videos
            continue
        except UserError as error:
            troubles.append(str(error))
    return ok_unless("decoders", ", ".join(names), bool(troubles), "; ".join(troubles))


def names(paths: Sequence[str] | None = None) -> Finding:
    """Whether another project on Python's path has a module of one of our names."""
    others = [*foreign_modules(sys.path if paths is None else paths), *rival_distributions()]
    value = ", ".join(others) if others else "no other project has modules of these names"
    advice = f"move these, or install bevt in its own environment: {', '.join(OUR_NAMES)} must be bevt's"
    return ok_unless("import names", value, bool(others), advice)


def weights() -> Finding:
    """Whether the paper's tokenizer is found, and what ships with the package."""
    shipped = [EMBEDDED, *packaged_names()]
    try:
        find_tokenizer(PUBLISHED)
    except UserError:
        advice = "for the paper's recipes: `bevt tokenizer fetch`, or `bevt tokenizer convert` for files that you have"
        return Finding("weights", f"no {PUBLISHED}; in the package: {', '.join(shipped)}", "warning", advice)
    return Finding("weights", ", ".join([PUBLISHED, *shipped]))
