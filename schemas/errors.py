"""The one error that a user is meant to read."""


class UserError(ValueError):
    """Bad input. The message names the value, what was expected, and the mend; the CLI prints it and exits with 2."""
