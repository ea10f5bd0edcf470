"""The exceptions that probekit raises on purpose.

ProbekitError
+-- BadInput        what was asked cannot be done; the message says what was found and what to do (exit 2)
|   +-- UnknownHook     a hook point that the model does not have
|   +-- TooFewRows      fewer rows than docs/method.md section 7.5 allows
+-- StoreError      an activation on disk is not what its key says (exit 3)
+-- RunError        a run folder is missing a part or does not match its manifest (exit 2)
+-- MissingExtra    an optional dependency is not installed (exit 3)
+-- FitError        a solver did not reach its certificate (the cell is NA)
+-- Interrupted     stopped by the user, everything finished so far is kept (exit 130)
"""


class ProbekitError(Exception):
    """Base of all of them. `exit_code` is what the command line returns."""

    exit_code = 2


class BadInput(ProbekitError):
    """What was asked cannot be done as asked."""


class UnknownHook(BadInput):
    """The model has no such hook point."""


class TooFewRows(BadInput):
    """Fewer rows than the protocol allows for what was asked."""


class StoreError(ProbekitError):
    """An activation on disk is not what its key says, or the store cannot be used."""

    exit_code = 3


class RunError(ProbekitError):
    """A run folder is missing, half-written, or does not match its manifest."""


class MissingExtra(ProbekitError):
    """An optional dependency is needed and not installed."""

    exit_code = 3


class Interrupted(ProbekitError):
    """The user stopped the work; everything finished so far is kept."""

    exit_code = 130


class FitError(ProbekitError):
    """A solver did not reach its certificate; the cell becomes NA with the reason, never a silent number."""
