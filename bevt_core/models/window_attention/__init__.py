"""Attention inside the windows of a grid: one function with several implementations, chosen by device and size."""

from bevt_core.models.window_attention.dispatch import IMPLEMENTATIONS, fastest_implementation

__all__ = ["IMPLEMENTATIONS", "fastest_implementation"]
