"""Every error a user can cause or meet. Messages name what was wrong, the value, where, and the next action."""

from __future__ import annotations


class LtgsError(Exception):
    """Base of all errors raised on purpose by this package."""

    exit_code = 1


class UsageError(LtgsError):
    """A command was called with flags that contradict each other or do not exist."""

    exit_code = 2


class InputError(LtgsError):
    """The user's photos, folders or files cannot be used as given."""

    exit_code = 3


class FormatError(InputError):
    """A file is not what its format promises: truncated, corrupt, foreign or of a newer version."""


class MissingDependency(LtgsError):
    """An optional package is needed for what was asked."""

    exit_code = 3


class ConvergenceError(LtgsError):
    """An optimisation produced non-finite numbers or could not start."""

    exit_code = 1
