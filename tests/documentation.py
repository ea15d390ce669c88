"""What the Markdown pages say, in a form that tests can compare with the programs."""

import functools
import json
import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "results").rglob("*.md")])
PAGES += [*sorted((ROOT / "reproduce").glob("*.md")), ROOT / "shipped" / "README.md"]

_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
    """A page without its blocks of code; inline code stays."""
    text = _FENCED.sub("", page.read_text(encoding="utf-8"))
    return "\n".join(line for line in text.split("\n") if not line.startswith("    "))


def inline_code(page: Path) -> list[str]:
    """Everything between single backticks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"(?<!\n)\n(?!\n)", " ", prose(page)))


def code_blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks in a language."""
    return [code for found, code in _FENCED.findall(page.read_text(encoding="utf-8")) if found == language]


def commands(text: str) -> Iterator[list[str]]:
    """The words of every command line in the indented blocks of a text, and behind the # of a YAML file's head."""
    lines = [re.sub(r"^(#? {4,5})", "    ", line) for line in text.split("\n")]
    joined = re.sub(r"\\\n +", "", "\n".join(lines))
    for line in joined.split("\n"):
        if line.startswith("    ") and re.match(r"(python|make) ", line.strip()):
            yield shlex.split(line, comments=True)


@functools.cache
def documented_metrics() -> frozenset[str]:
    """The names in the first column of the table of metrics."""
    text = (ROOT / "docs" / "conventions.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*?`) \|", text.split("## Metrics")[1], re.MULTILINE)
    return frozenset(name for row in rows for name in re.findall(r"`([^`]+)`", row))


def undocumented(names: Iterable[str]) -> set[str]:
    """Those of a run's metrics that the table lacks; names of a task or of counts of non-finite values follow rules."""
    found = set()
    for name in set(names) - {"step", "time"}:
        parts = name.removeprefix("nonfinite/").split("/")
        if "/".join([parts[0], parts[-1]] if parts[0] in ("train", "eval") else parts) not in documented_metrics():
            found.add(name)
    return found


def read_metrics(logdir: Path) -> list[dict[str, float]]:
    """The lines of a run's metrics.jsonl, all of whose names must be in the table of metrics."""
    rows = [json.loads(line) for line in (logdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    names = undocumented(set().union(*rows))
    assert not names, f"docs/conventions.md does not explain {names}"
    return rows
