"""Which revision of this checkout runs."""

import subprocess
from pathlib import Path


def git_revision() -> dict[str, str | bool]:
    """The commit of this checkout ('' where there is none), and whether tracked files differ from it."""
    return {
        "commit": _git("rev-parse", "HEAD"),
        "modified": bool(_git("status", "--porcelain", "--untracked-files=no")),
    }


def _git(*args: str) -> str:
    """Output of a git command on this checkout, or '' where there is none."""
    try:
        done = subprocess.run(
            ["git", *args], cwd=Path(__file__).parent.parent, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()
