"""The exceptions that probekit raises on purpose.

ProbekitError
+-- BadInput        what was asked cannot be done; the message says what was found and what to do (exit 2)
|   +-- UnknownHook     a hook point that the model does not have
|   +-- TooFewRows      fewer rows than docs/method.md section 7.5 allows
|   +-- OverBudget      a job is known to need more than its budget has
+-- StoreError      an activation on disk is not what its key says (exit 3)
+-- RunError        a run folder is missing a part or does not match its manifest (exit 2)
|   +-- RunHeld         another process is writing to it
|   +-- RunOver         it is complete, and never written to again
+-- MissingExtra    an optional dependency is not installed (exit 3)
+-- FitError        a solver did not reach its certificate (the cell is NA)
+-- Interrupted     stopped by the user, everything finished so far is kept (exit 130)
    +-- OutOfTime       the same, by the minutes of a budget
"""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, known: Iterable[str], cutoff: float = 0.0) -> str:
    """The known name that is most like `name`, to be proposed in its place; "" where none is like it.

    cutoff: how like it has to be, from 0 to 1.
    """
    return next(iter(get_close_matches(name, list(known), n=1, cutoff=cutoff)), "")


class ProbekitError(Exception):
    """Base of all of them. `exit_code` is what the command line returns.

    >>> import probekit as pk
    >>> [error.exit_code for error in (pk.BadInput, pk.StoreError, pk.MissingExtra, pk.Interrupted)]
    [2, 3, 3, 130]
    """

    exit_code = 2

    def __str__(self) -> str:
        return printable(super().__str__())  # names of the user's are in it


class BadInput(ProbekitError):
    """What was asked cannot be done as asked.

    >>> import probekit as pk
    >>> pk.Level.parse("liner")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    probekit.errors.BadInput: no level 'liner'. Did you mean 'linear'? Levels: ...
    """


class UnknownHook(BadInput):
    """The model has no such hook point.

    >>> from probekit.hookpoint import expand
    >>> expand("blocks.7.hook_resid_post", ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"])
    Traceback (most recent call last):
    probekit.errors.UnknownHook: the model has no hook point 'blocks.7.hook_resid_post': it has 2 layers (0-1).
    """


class TooFewRows(BadInput):
    """Fewer rows than docs/method.md section 7.5 allows for what was asked.

    >>> import probekit as pk
    >>> issubclass(pk.TooFewRows, pk.BadInput)
    True
    """


class OverBudget(BadInput):
    """A job is known to need more than the `[budget]` of its file has. minutes: that it needs, where these are too few.

    >>> import probekit as pk
    >>> issubclass(pk.OverBudget, pk.BadInput)
    True
    """

    def __init__(self, said: str, minutes: float = 0.0) -> None:
        super().__init__(said)
        self.minutes = minutes


class StoreError(ProbekitError):
    """An activation on disk is not what its key says, or the store cannot be used.

    >>> import probekit as pk
    >>> pk.StoreError.exit_code
    3
    """

    exit_code = 3


class RunError(ProbekitError):
    """A run folder is missing, half-written, or does not match its manifest.

    >>> import probekit as pk
    >>> pk.open_run("runs/nowhere")
    Traceback (most recent call last):
    probekit.errors.RunError: no run folder runs/nowhere; `probekit ls` lists the runs.
    """


class RunOver(RunError):
    """The run folder is complete, and is never written to again.

    >>> import probekit as pk
    >>> issubclass(pk.RunOver, pk.RunError)
    True
    """


class RunHeld(RunError):
    """Another process is writing to the run folder.

    >>> import probekit as pk
    >>> issubclass(pk.RunHeld, pk.RunError)
    True
    """


class MissingExtra(ProbekitError):
    """An optional dependency is needed and not installed: the page without streamlit, a PNG without a browser.

    >>> import probekit as pk
    >>> pk.MissingExtra.exit_code
    3
    """

    exit_code = 3


class Interrupted(ProbekitError):
    """The user stopped the work; everything finished so far is kept.

    >>> import probekit as pk
    >>> pk.Interrupted.exit_code
    130
    """

    exit_code = 130


class OutOfTime(Interrupted):
    """The minutes of a budget are spent; everything finished so far is kept.

    >>> import probekit as pk
    >>> pk.OutOfTime.exit_code
    130
    """


class FitError(ProbekitError):
    """A solver did not reach its certificate; the cell becomes NA with the reason, never a silent number.

    >>> import probekit as pk
    >>> issubclass(pk.FitError, pk.ProbekitError)
    True
    """


def unknown(what: str, name: str, known: Iterable[str], there: str = "There is") -> BadInput:
    """For a name that is none of those known: the nearest of them, and all. there: what leads to these."""
    names = list(known)
    return BadInput(f"no {what} '{name}'. Did you mean '{nearest(name, names)}'? {there} {', '.join(names)}.")


def printable(name: str) -> str:
    """A name of the user's on one line: what no terminal shows, or what would move its cursor, becomes a `?`."""
    return "".join(c if c.isprintable() else "?" for c in name)


def check_text(text: str, where: str) -> None:
    """Raise BadInput for half a surrogate pair: it is no character, so that no file and no tokenizer takes the text."""
    if not text.isascii() and (half := next((c for c in text if "\ud800" <= c <= "\udfff"), "")):
        raise BadInput(f"{where} has {half!r}, half of a character, in {text!r:.60}: write the whole character.")


def check_texts(value: object, where: str) -> None:
    """The same of every text in plain lists and dictionaries, keys too, however deep."""
    left = [value]
    while left:
        item = left.pop()
        if isinstance(item, str):
            check_text(item, where)
        elif isinstance(item, list | dict):
            left += [*item, *item.values()] if isinstance(item, dict) else item


def first_line(error: BaseException) -> str:
    """What a library said went wrong, in one line that can stand within a sentence."""
    text = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = " ".join(text[: 2 if text and text[0].endswith(":") else 1])
    return said.rstrip(".") or type(error).__name__
