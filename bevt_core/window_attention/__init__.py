"""Attention inside windows with a learned bias, for GPUs."""
