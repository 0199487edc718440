"""Gradients on a CPU have the same bits in every run, with any number of threads."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from bevt_core.models.build import SWIN_SIZES, build_bevt, build_classifier
from bevt_core.tokenizers.dvae.training import DVAE_PRESETS, DvaeTraining
from bevt_core.tokenizers.peco.training import PECO_PRESETS, PecoTraining
