"""Labelled clips for fine-tuning and testing: sources, sampling, augmentation, views. Not here: token sets (data)."""
