"""Attention inside the windows of a grid, one function with an implementation for every device."""

from bevt_core.models.window_attention.dispatch import IMPLEMENTATIONS, chosen, windowed_attention

__all__ = ["IMPLEMENTATIONS", "chosen", "windowed_attention"]
