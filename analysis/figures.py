"""What figures share: colours, the grid of panels, the legend below it, the files."""

import io
import json
import math
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import text_to_path
from matplotlib.ticker import FuncFormatter, NullFormatter

from tools.files import replaced, writing

matplotlib.rcParams["text.parse_math"] = False  # a $ in the name of a folder or task is a $

LINE_STYLES = ("-", "--", "-.")  # dotted lines say something else
DPI = 150
TITLE_WIDTH = 3.3  # inches above a panel


def styles(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Colour and line style for each name; the ten colours can be told apart by the colour-blind, too (Petroff 2021).

    They follow the alphabet, so that a name looks the same in all panels and figures of the same names.
    """
    colors = matplotlib.color_sequences["petroff10"]
    return {
        name: {
            "color": colors[index % len(colors)],
            "linestyle": LINE_STYLES[index // len(colors) % len(LINE_STYLES)],
        }
        for index, name in enumerate(sorted(set(names)))
    }


def grid(rows: int, columns: int, size: tuple[float, float]) -> tuple[Figure, np.ndarray]:
    """A figure of panels, Axes [rows, columns], each of a size in inches, and wide enough for a legend."""
    width = max(columns * size[0] + 0.4, 5.0)
    figure = Figure(figsize=(width, rows * size[1]), dpi=DPI, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def wrapped(count: int, most: int) -> tuple[int, int]:
    """Rows and columns for a number of panels, as even as can be with at most so many columns."""
    rows = math.ceil(count / most)
    return rows, math.ceil(count / rows)


def folded(name: str, inches: float) -> str:
    """A name at size 10 on lines that are not wider than so many inches, if its letters are of about one width."""
    width = _inches(name)
    if width <= inches:
        return name
    return textwrap.fill(name, max(int(len(name) * inches / width), 1), subsequent_indent="  ", break_on_hyphens=False)


def _inches(text: str) -> float:
    """The width of a text at size 10."""
    return text_to_path.get_text_width_height_descent(text, FontProperties(size=10), ismath=False)[0] / 72


def legend_below(figure: Figure, entries: Mapping[str, Mapping[str, Any]], explanation: str = "") -> None:
    """A legend under the panels: label -> properties of a line, above them what the panels show."""
    width, height = figure.get_size_inches()
    labels = [folded(label, width - 0.9) for label in entries]
    # The zero-width space in front: matplotlib leaves labels that begin with an underscore out.
    handles = [
        Line2D([], [], label=f"\u200b{label}" if label.startswith("_") else label, linewidth=2, **properties)
        for label, properties in zip(labels, entries.values(), strict=True)
    ]
    parts = [part for label in labels for part in label.split("\n")]
    inches = max(0.085 * max(map(len, parts)), *map(_inches, parts)) + 0.7  # of a label with its line
    columns = max(1, min(len(entries), int(width / inches)))
    rows = math.ceil(len(entries) / columns) * max(label.count("\n") + 1 for label in labels)
    lines = textwrap.wrap(explanation, int(width / 0.068))
    figure.set_size_inches(width, height + 0.23 * rows + 0.18 * len(lines) + 0.2)
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=columns,
        fontsize=10,
        frameon=False,
        title="\n".join(lines),
        title_fontproperties={"size": 9},
        alignment="center",
    )


def tidy(axis: Axes) -> None:
    """Light grid, no frame at the top and at the right."""
    axis.grid(alpha=0.3)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=9)


def make_logarithmic(axis: Axes, which: str = "y") -> None:
    """Logarithmic axes ("x", "y" or "xy"), without what is not positive; no formula starts at a `$` here."""
    for name in which:
        getattr(axis, f"set_{name}scale")("log", nonpositive="mask")
        ticks = getattr(axis, f"{name}axis")
        ticks.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ticks.set_minor_formatter(NullFormatter())


def save(figure: Figure, path: Path, **options: Any) -> str:
    """Writes a picture, making its folder if need be, and returns its path. Raises UserError if that fails."""
    drawn = io.BytesIO()
    # Type 42 embeds letters as such: type 3 cannot be searched, and conferences refuse it.
    with matplotlib.rc_context({"pdf.fonttype": 42}):
        figure.savefig(drawn, format=path.suffix.removeprefix("."), **options)
    return _write(drawn.getvalue(), path)


def save_text(text: str, path: Path) -> str:
    """As `save`, for a text."""
    return _write(text.encode(errors="backslashreplace"), path)


def _write(content: bytes, path: Path) -> str:
    with writing(path, "choose another folder (--out)"):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink() or (path.exists() and not path.is_file()):  # a device or a pipe cannot be replaced
            path.write_bytes(content)
        else:  # an earlier one stays where there is no room for another
            with replaced(path, "wb") as file:
                file.write(content)
    return str(path)


def save_all(figure: Figure, stem: Path, numbers: Any, **options: Any) -> list[str]:
    """Writes <stem>.png, <stem>.pdf and the numbers that are drawn as <stem>.json; returns the three paths."""
    pictures = [save(figure, stem.with_name(f"{stem.name}.{kind}"), **options) for kind in ("png", "pdf")]
    text = json.dumps(json_value(numbers), allow_nan=False, indent=1) + "\n"
    return [*pictures, save_text(text, stem.with_name(f"{stem.name}.json"))]


def json_value(value: Any) -> Any:
    """A value as JSON knows it: arrays as lists, what is not finite as null, paths as texts."""
    if isinstance(value, Mapping):
        return {str(key): json_value(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return json_value(value.tolist())
    if isinstance(value, list | tuple):
        return [json_value(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value
