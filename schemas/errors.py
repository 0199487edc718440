"""The errors that a user is meant to read."""


class UserError(ValueError):
    """Bad input. The message names the value, what was expected, and the mend; the CLI prints it and exits with 2."""


class JointError(UserError):
    """A UserError that all ranks of a job raise together, where rank 0 met it. Rank 0 alone prints it."""


class StorageError(OSError):
    """The disk or the object store said no. The message names the path and the mend; the CLI prints it alone."""

    def __str__(self) -> str:
        return str(self.args[-1])


class JobError(RuntimeError):
    """The machine or the cluster failed a job. The message names the cause and the fix; the CLI exits with 1."""
