"""Datasets in other projects' formats: JPEG frames, tokens and views, byte for byte, one part at a time."""
