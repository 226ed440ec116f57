"""What can go wrong, one class an exit code (2 settings, 3 data, 4 resources, 5 diverged, 6 busy, 7 refused)."""

import difflib
from collections.abc import Iterable


class PeterrecError(Exception):
    """A mistake or a circumstance that a user can act upon; the message says what to do.

    The command line prints the message without a traceback and leaves with `exit_code`.
    """

    exit_code = 1


class SettingsError(PeterrecError):
    """Wrong usage or settings: an unknown option, task, adapter or key; a finished run in the way."""

    exit_code = 2


class DataError(PeterrecError):
    """The data cannot be used as they are: names file, row, column and value."""

    exit_code = 3


class ResourceError(PeterrecError):
    """Disk or memory gave out."""

    exit_code = 4


class DivergedError(PeterrecError):
    """A loss or gradient was not finite; nothing was updated with it."""

    exit_code = 5


class BusyError(PeterrecError):
    """Another run is writing into the same folder."""

    exit_code = 6


class RefusedError(PeterrecError):
    """An artefact does not fit (wrong encoder or vocabulary) or is damaged or unsafe."""

    exit_code = 7


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint for an unknown `name`: the nearest known one, then all of them.

    >>> did_you_mean("gendr", ["age", "gender"])
    "Did you mean 'gender'? Known: age, gender."
    """
    names = sorted(known)
    folded = {candidate.casefold(): candidate for candidate in names}
    near = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.5)
    listing = f"Known: {', '.join(names)}." if names else "There are none."
    return f"Did you mean {folded[near[0]]!r}? {listing}" if near else listing
