"""Reconstructions of held-out frames by a tokenizer in training: quality figures and a picture for TensorBoard."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from bevt_core.console.disk_errors import explaining
from bevt_core.reporting.pictures import sheet
from bevt_core.tokenizers.quality import mean_squared_error, psnr_db, ssim


class Reconstructs(Protocol):
    """A tokenizer in training that can reconstruct frames."""

    def reconstruct(self, frames_NHWC: Tensor) -> Tensor: ...


class Reconstructions:
    """An evaluation on rank 0: writes the crops, and below them their reconstructions, to TensorBoard."""

    def __init__(self, model: Reconstructs, frames_NHWC: Tensor, run_dir: Path, device: torch.device) -> None:
        from torch.utils.tensorboard import SummaryWriter  # half a second to import

        self.model, self.frames_NHWC, self.device = model, frames_NHWC, device
        self._folder = run_dir / "tensorboard"
        self._tensorboard = SummaryWriter(str(self._folder), filename_suffix=".pictures")

    def __call__(self, done: int) -> Mapping[str, float]:
        """Return `held_out_psnr_db` and `held_out_ssim`, means over the crops."""
        pairs = list(zip(self.frames_NHWC.numpy(), self._reconstructed(), strict=True))
        picture_HWC = sheet(list(zip(*pairs, strict=True)))
        with explaining(self._folder):
            self._tensorboard.add_image("held_out", picture_HWC, done, dataformats="HWC")
            self._tensorboard.flush()
        return {
            "held_out_psnr_db": float(np.mean([psnr_db(mean_squared_error(a, b)) for a, b in pairs])),
            "held_out_ssim": float(np.mean([ssim(a, b) for a, b in pairs])),
        }

    def _reconstructed(self) -> np.ndarray:
        return self.model.reconstruct(self.frames_NHWC.to(self.device)).cpu().numpy()
