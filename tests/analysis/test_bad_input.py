"""Names and damaged files that plot.py meets: drawn as they are, or refused in one sentence."""

import json
import os
import resource
import signal
import threading

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from analysis import figures, runs
from analysis.curves import draw_curves, task_curves
from analysis.evaluations import newest, read_evaluations, table_rows
from analysis.tables import table_text
from tests.analysis.logdirs import drawn, refusal, returns, run, write_run
from tools.config import Config
from tools.errors import UserError

LINE = {
    "task": "metaworld_reach",
    "planner": "latco",
    "method": "latco",
    "logdir": "somewhere/latco/0",
    "episodes": 20,
    "return": {"mean": 1.0, "low": 0.5, "high": 1.5},
    "success": {"mean": 0.5, "low": 0.25, "high": 0.75},
    "plan_seconds": 0.5,
    "overrides": ["--planner", "latco"],
    "by_distance": [{"low": 0.0, "high": 0.1, "episodes": 20, "success": {"mean": 0.5, "low": 0.3, "high": 0.7}}],
}


def write_lines(path, *lines):
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return path


# --- names


NAMES = [
    "a $_{$ b",
    "a$b$c",
    r"a\$b",
    "_hidden",
    "line\nbreak",
    "tab\tand\x07bell",
    "m" * 120,
    os.fsdecode(b"\xff\xfe"),
]


def test_any_name_of_a_folder_is_drawn(tmp_path, capsys):
    for name in NAMES:
        write_run(tmp_path / "runs" / name / "0", returns((100, 1.0), (200, 2.0)))
    lines = [LINE | {"method": name, "logdir": f"somewhere/{name}/0", "overrides": []} for name in NAMES]
    write_lines(tmp_path / "lines.jsonl", *lines)
    shown = sorted(map(runs.printable, NAMES))
    run(capsys, "curves", tmp_path / "runs", "--out", tmp_path / "plots")
    run(capsys, "aggregate", tmp_path / "runs", "--repetitions", 5, "--out", tmp_path / "plots")
    run(capsys, "table", tmp_path / "lines.jsonl", "--out", tmp_path / "plots")
    assert sorted(drawn(tmp_path / "plots", "curves", "train/return", "metaworld_reach")) == shown
    assert sorted(row["method"] for row in drawn(tmp_path / "plots", "table")) == shown
    assert (tmp_path / "plots" / "table.md").read_text().count("\n|") == 1 + len(NAMES)
    assert "line\ufffdbreak" in shown and runs.printable(os.fsdecode(b"\xff")) == "\ufffd"


@pytest.mark.parametrize("name", ["a$b$c", "_hidden", r"a\$b"])
def test_legend_shows_the_letters_of_a_name(name):
    figure, _ = figures.grid(1, 1, (3, 2))
    figures.legend_below(figure, {name: {"color": "black"}, "other": {"color": "red"}})
    figure.canvas.draw()
    texts = figure.legends[0].get_texts()
    assert [text.get_text().strip("\u200b") for text in texts] == [name, "other"]
    assert not any(text.get_parse_math() for text in texts)


@pytest.mark.parametrize("length", [120, 255])
def test_long_names_stay_in_the_picture(tmp_path, length):
    name, task = "m" * length, "metaworld_" + "t" * (length - 10)
    found = [runs.read_run(write_run(tmp_path / name / str(seed), returns((9, 1.0)), task=task))[0] for seed in (0, 1)]
    figure = draw_curves(
        {(task, "train/return"): task_curves(found, task, "train/return", None)}, [task], ["train/return"]
    )
    figures.save(figure, tmp_path / "picture.png")
    pixels = np.asarray(Image.open(tmp_path / "picture.png").convert("L"))
    assert pixels.min() == 0 and pixels.shape[1] == 750
    for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):  # what is cut off reaches one
        assert edge.min() == 255


# --- runs


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"task": 3}, "task must be a name, not 3"),
        ({"planner": 1.5}, "planner must be a name, not 1.5"),
        ({"seed": "zero"}, "seed must be a whole number, not 'zero'"),
        ({"seed": True}, "seed must be a whole number, not True"),
    ],
)
def test_config_of_other_types_is_refused(tmp_path, capsys, settings, words):
    write_run(tmp_path / "a" / "0", returns((1, 1.0)))
    write_run(tmp_path / "b" / "0", returns((1, 1.0)))
    before = Config.load(tmp_path / "b" / "0" / "config.yaml").as_dict()
    Config(before | settings).save(tmp_path / "b" / "0" / "config.yaml")
    assert words in refusal(capsys, "curves", tmp_path)


@pytest.mark.parametrize("step", ["1180591620717411303424", "1" + "0" * 400, "-1", "1e300", "null", '"3"', "NaN"])
def test_line_whose_step_is_no_step_is_refused(tmp_path, capsys, step):
    write_run(tmp_path / "0", f'{{"step": {step}, "train/return": 1.0}}\n{{"step": 2, "train/return": 1.0}}\n')
    assert "line 1" in (words := refusal(capsys, "curves", tmp_path)) and "has no step" in words


@pytest.mark.parametrize("value", ["1e308", "-1e308", "1" + "0" * 400, "1e999", "NaN", '"text"', "[[1]]", "{}"])
def test_value_that_cannot_be_drawn_is_left_out_with_a_note(tmp_path, capsys, value):
    write_run(tmp_path / "0", f'{{"step": 1, "train/return": 1.0}}\n{{"step": 2, "train/return": {value}}}\n')
    assert runs.read_metrics(tmp_path / "0" / "metrics.jsonl")["train/return"].steps.tolist() == [1]
    assert "not numbers or beyond 1e+100, which are left out: train/return" in capsys.readouterr().err


def test_largest_values_are_drawn(tmp_path, capsys):
    for seed in range(3):
        write_run(tmp_path / "m" / str(seed), returns((1, 1e100 * (-1) ** seed), (2, -1e100), (2**53, 1e100)))
    run(capsys, "curves", tmp_path, "--out", tmp_path / "plots")
    run(capsys, "aggregate", tmp_path, "--out", tmp_path / "plots", "--normalize", "*=0,1e-100", "--repetitions", 5)


@pytest.mark.parametrize("content", ['{"step": ' + "[" * 100_000, '{"step": ' + "9" * 5000 + "}", "\xff\xfe"])
def test_line_that_cannot_be_read_is_refused_by_its_number(tmp_path, capsys, content):
    write_run(tmp_path / "0", content + '\n{"step": 2}\n')
    assert "line 1 of" in (words := refusal(capsys, "curves", tmp_path)) and len(words) < 1000


def test_a_whole_line_at_the_end_is_not_taken_for_one_that_is_being_written(tmp_path, capsys):
    lines = write_lines(tmp_path / "lines.jsonl", LINE, "no evaluation\n")
    assert "line 2 of" in (words := refusal(capsys, "table", lines)) and "is not a JSON object: give what" in words
    write_lines(lines, LINE, '{"task": "meta')
    assert len(runs.read_lines(lines)) == 1


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch, capsys):
    write_run(tmp_path / "latco" / "0", returns((1, 1.0)))
    (tmp_path / "secret").mkdir()
    scan = os.scandir

    def scandir(path):
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert len(list(runs.find_files(tmp_path, "metrics.jsonl"))) == 1
    assert "secret cannot be read (Permission denied): what is in it is left out" in capsys.readouterr().err


def test_named_pipe_in_the_place_of_a_file_is_refused(tmp_path, capsys):
    logdir = write_run(tmp_path / "0", returns((1, 1.0)))
    for name in ("metrics.jsonl", "config.yaml"):
        (logdir / name).unlink()
        os.mkfifo(logdir / name)
        refused = refusal(capsys, "curves", tmp_path)
        assert name in refused and "is not a file" in refused
        (logdir / name).unlink()
        (logdir / name).write_text('{"step": 1, "train/return": 1.0}\n')


def test_range_that_no_score_fits_is_refused(tmp_path, capsys):
    for text in ("reach=-1e308,1e308", "reach=0,1e-320", "reach=0,nan"):
        assert "needs a low number below a high one" in refusal(capsys, "aggregate", tmp_path, "--normalize", text)


# --- evaluations


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"task": 3}, "'task' must be a name"),
        ({"planner": None}, "'planner' must be a name"),
        ({"method": ["latco"]}, "'method' must be a name"),
        ({"logdir": "a\0b"}, "'logdir' must be a name"),
        ({"episodes": "twenty"}, "'episodes' must be a whole number"),
        ({"episodes": 2**70}, "'episodes' must be a whole number"),
        ({"return": 1.0}, "'return' must be a mean"),
        ({"return": {"mean": "high"}}, "'return' must be a mean"),
        ({"success": {"mean": 1e308, "low": None, "high": None}}, "'success' must be a mean"),
        ({"plan_seconds": "fast"}, "'plan_seconds' must be a number"),
        ({"overrides": "--planner cem"}, "'overrides' must be a list of words"),
        ({"overrides": [1]}, "'overrides' must be a list of words"),
        ({"by_distance": {"low": 0}}, "'by_distance' must be a list"),
        ({"by_distance": [3]}, "each bin of 'by_distance'"),
        ({"by_distance": [LINE["by_distance"][0] | {"low": "near"}]}, "a bin of 'by_distance'"),
    ],
)
def test_evaluation_of_other_types_is_refused(tmp_path, capsys, change, words):
    path = write_lines(tmp_path / "evaluations.jsonl", LINE, LINE | change)
    refused = refusal(capsys, "table", path)
    assert words in refused and "line 2 of" in refused


# --- anything

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*LINE, "mean", "low", "step"]), inner),
    max_leaves=6,
)


@hypothesis.given(st.dictionaries(st.sampled_from(list(LINE)), anything, max_size=2))
@hypothesis.settings(max_examples=150)
def test_any_change_of_an_evaluation_is_shown_or_refused(tmp_path_factory, change):
    path = write_lines(tmp_path_factory.getbasetemp() / "changed.jsonl", LINE | change)
    try:
        lines = read_evaluations([path])
    except UserError as error:
        assert "line 1 of" in str(error)
    else:
        assert table_text(table_rows(newest(lines))).count("\n| ") >= 2


@hypothesis.given(st.lists(st.dictionaries(st.sampled_from(["step", "time", "train/return"]), anything), max_size=4))
@hypothesis.settings(max_examples=150)
def test_any_metrics_are_read_or_refused(tmp_path_factory, lines):
    path = write_lines(tmp_path_factory.getbasetemp() / "changed.jsonl", *lines)
    try:
        metrics = runs.read_metrics(path)
    except UserError as error:
        assert "line" in str(error)
        return
    for series in metrics.values():
        assert series.values.dtype == float and np.isfinite(series.values**2).all()
        assert (np.diff(series.steps) > 0).all() and series.steps.dtype != object


# --- disks


@pytest.fixture
def full_disk():
    """Files cannot grow beyond 500 bytes."""
    limits, before = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, before)


def test_an_earlier_picture_or_text_stays_where_the_disk_has_no_room_for_another(tmp_path, full_disk):
    picture, text = tmp_path / "picture.png", tmp_path / "table.md"
    for path in (picture, text):
        path.write_text("earlier")
    for save in (lambda: figures.save(Figure(), picture), lambda: figures.save_text("x" * 501, text)):
        with pytest.raises(UserError, match="cannot be written .* make room"):
            save()
    assert [path.read_text() for path in sorted(tmp_path.iterdir())] == ["earlier"] * 2


def test_a_picture_goes_into_a_pipe_and_through_a_link(tmp_path):
    """As with --table /dev/stdout."""
    os.mkfifo(pipe := tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    figures.save_text("a table", pipe)
    reader.join()
    figures.save_text("a table", tmp_path / "link")
    assert read == [b"a table"] and (tmp_path / "link").is_symlink() and (tmp_path / "target").is_file()
