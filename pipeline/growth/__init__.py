"""Datasets that grow: new sources become new parts of a finished dataset."""
