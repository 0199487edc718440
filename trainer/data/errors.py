"""Errors raised while batches are read."""

from schemas.errors import UserError


class LoaderError(UserError):
    """A loader process was lost, or cannot be started."""


class SampleError(UserError):
    """A sample could not be read. The message names the sample, its part and the file."""
