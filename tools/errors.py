"""The error for bad input, and the suggestion for a misspelled name."""

import difflib
from collections.abc import Iterable

LONGEST = 900  # characters of a message
OMISSION = " [...] "


class UserError(Exception):
    """Bad input. The message is one clear sentence: what is wrong and what to do.

    The entry points print the message without a traceback and exit with code 2. A message that quotes something very
    long loses its middle: what is wrong stands at its start, what to do at its end. Lines of what it quotes are joined.
    """

    def __str__(self) -> str:
        message = " ".join(filter(None, map(str.strip, super().__str__().splitlines())))
        if len(message) <= LONGEST:
            return message
        half = (LONGEST - len(OMISSION)) // 2
        return message[:half] + OMISSION + message[-half:]


def unknown(kind: str, name: str, valid: Iterable[str]) -> UserError:
    """Returns (does not raise) the error for a name that is not among the valid ones.

    Args:
        kind: what is named, for the message: "planner", "task", ...
        name: what the user wrote.
        valid: the valid names. The message suggests the closest one, ignoring case.
    """
    by_lower_case = {choice.lower(): choice for choice in valid}
    nearest = difflib.get_close_matches(str(name).lower(), by_lower_case, n=1, cutoff=0.0)
    hint = f"did you mean {by_lower_case[nearest[0]]!r}?" if nearest else "there is none."
    return UserError(f"unknown {kind} {str(name)!r}: {hint}")
