"""Where the published tokenizers are, by the name that `bevt tokenizer fetch` takes. Imports no torch.

A digest is here only if a public source states it; revisions of repositories are not pinned. VQ-KD's is the
beginning in its file name, by the convention of torch.hub.
"""

from dataclasses import dataclass

from schemas.errors import UserError
from schemas.recipes.loading import nearest

DALLE = "dalle"  # two pickles, with a conversion of their own


@dataclass(frozen=True)
class Published:
    """A published checkpoint: a file at `url`, or of the repository `repo` on the Hugging Face hub."""

    kind: str
    file: str
    url: str | None = None
    repo: str | None = None
    sha256_begins: str | None = None

    @property
    def page(self) -> str:
        """The address to open in a browser."""
        return self.url or f"https://huggingface.co/{self.repo}"


VQKD_FILE = "vqkd_encoder_base_decoder_3x768x12_clip-d5036aa7.pth"
CATALOGUE = {
    "vqkd": Published(  # microsoft/unilm, beit2/TOKENIZER.md
        "vqkd",
        VQKD_FILE,
        url=f"https://github.com/addf400/files/releases/download/BEiT-v2/{VQKD_FILE}",
        sha256_begins="d5036aa7",
    ),
    # CompVis/taming-transformers, scripts/reconstruction_usage.ipynb
    "vqgan-1024": Published("vqgan", "last.ckpt", url="https://heibox.uni-heidelberg.de/f/140747ba53464f49b476/?dl=1"),
    "vqgan-16384": Published("vqgan", "last.ckpt", url="https://heibox.uni-heidelberg.de/f/867b05fc8c4841768640/?dl=1"),
    "llamagen-vq16": Published("llamagen", "vq_ds16_c2i.pt", repo="FoundationVision/LlamaGen"),  # its README
    # TencentARC/SEED-Voken, docs/IBQ.md and docs/Open-MAGVIT2.md
    "ibq-8192": Published("ibq", "imagenet256_8192.ckpt", repo="TencentARC/IBQ-Tokenizer-8192"),
    "ibq-16384": Published("ibq", "imagenet256_16384.ckpt", repo="TencentARC/IBQ-Tokenizer-16384"),
    "magvit2-16384": Published(
        "magvit2", "pretrain256_16384.ckpt", repo="TencentARC/Open-MAGVIT2-Tokenizer-16384-Pretrain"
    ),
}


def published(name: str) -> Published:
    """Return the entry of `name`. Raises UserError for an unknown one."""
    if name not in CATALOGUE:
        known = [DALLE, *CATALOGUE]
        raise UserError(
            f"no published tokenizer {name!r}; {nearest(name, known)}known: {', '.join(known)}; another file is "
            "converted by `bevt tokenizer convert FILE --kind KIND --out DIR`"
        )
    return CATALOGUE[name]
