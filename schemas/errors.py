"""Errors whose messages are meant for the user."""

DAMAGED = "run `bevt verify`, then `bevt repair`"  # the fix for a damaged dataset, at the end of a message


class UserError(ValueError):
    """Bad input. The message names the value, what was expected, and the fix; the CLI prints it and exits with 2."""


class JointError(UserError):
    """A UserError of rank 0 that all ranks of a run raise together. Only rank 0 prints it."""


class StorageError(OSError):
    """A failure of the disk or object store. The message names the path and the fix; the CLI exits with 2."""

    def __str__(self) -> str:
        return str(self.args[-1])


class JobError(RuntimeError):
    """A failure of the machine or cluster. The message names the cause and the fix; the CLI exits with 1."""
