"""The pages against the programs: links, commands, settings, presets, planners, metrics, and examples that run."""

import argparse
import contextlib
import importlib.util
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from documentation import PAGES, ROOT, code_blocks, commands, documented_metrics, inline_code, prose

import envs
import plot
import sweep
from agents import PLANNERS
from tools.config import load_config
from tools.schema import read_schema

SCHEMA = read_schema()
HEADS = sorted((ROOT / "reproduce").glob("*.yaml"))
COMMANDS = [words for path in [*PAGES, *HEADS] for words in commands(path.read_text(encoding="utf-8"))]
COMMANDS += [shlex.split(code) for page in PAGES for code in inline_code(page) if code.startswith(("python ", "make "))]
UNIQUE = {shlex.join(words): words for words in COMMANDS}
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def test_the_readme_is_short():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count("\n") <= 150 and len(text.split()) <= 1200


# Links


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        number = 0
        while (name := f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(name)
    return found


@each_page
def test_every_relative_link_and_anchor_leads_somewhere(page: Path):
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists() and target.is_relative_to(ROOT), link
        if anchor:
            assert anchor in anchors(target), link


@each_page
def test_every_file_named_with_its_folder_exists(page: Path):
    folders = {path.name for path in ROOT.iterdir() if path.is_dir()} - {"logdir", "data", "plots"}
    for name in inline_code(page):
        if re.fullmatch(r"[\w./-]+/([\w-]+\.\w+)?", name) and name.split("/")[0] in folders:
            assert (ROOT / name).exists() or (page.parent / name).exists(), name


# Names


@each_page
def test_every_option_in_inline_code_is_known_and_has_a_valid_value(page: Path):
    for code in inline_code(page):
        for key in re.findall(r"(?<![\w-])--([a-z]\w*)", code):
            assert key in known_options(), f"--{key}"
        words = shlex.split(code) if code.startswith("--") and "'" not in code else []
        setting = words[0].removeprefix("--").partition("=")[0] if words else ""
        if len(words) > 1 and setting in ("configs", *SCHEMA.settings):
            load_config(words)
    for name in re.findall(r"[Pp]resets? `(\w+)`", prose(page)):
        assert name in SCHEMA.presets, name


def known_options() -> set[str]:
    """Settings, and what the programs add to their parsers."""
    sources = [
        path for folder in (".", "analysis", "sweeps", "benchmarks", "envs") for path in ROOT.glob(f"{folder}/*.py")
    ]
    added = {
        name for path in sources for name in re.findall(r"\badd(?:_argument)?\(\s*\"--(\w+)\"", path.read_text("utf-8"))
    }
    tensorboard = {"samples_per_plugin"}
    return {*SCHEMA.settings, *added, *tensorboard, "configs", "help", "key"}


def first_column(page: str, heading: str) -> list[str]:
    """The code in the first cells of the first table below a heading."""
    section = (ROOT / page).read_text(encoding="utf-8").split(f"{heading}\n", 1)[1]
    rows = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)[0].split("\n")[2:-1]
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])]


def test_the_tables_of_planners_and_presets_are_complete():
    assert first_column("README.md", "## Planners") == list(PLANNERS)
    assert first_column("docs/planners.md", "# Planners") == list(PLANNERS)
    assert sorted(first_column("docs/settings.md", "## Presets")) == sorted(SCHEMA.presets)


@each_page
def test_every_metric_is_in_the_table(page: Path):
    for name in inline_code(page):
        if re.fullmatch(r"(train|eval|model|plan|replay|speed)/\w+", name):
            assert name in documented_metrics(), name


def test_every_metric_in_the_table_is_in_the_code():
    """That runs log no others is checked by the tests that make runs (`documentation.undocumented`)."""
    sources = [
        *ROOT.glob("*.py"),
        *(path for path in ROOT.glob("*/*.py") if path.parent.name not in ("tests", "analysis")),
    ]
    code = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    for name in documented_metrics():
        last = name.rpartition("/")[2].removeprefix("eval_")
        assert re.search(rf"\"([a-z/_]*/)?{last}\"", code), name


# Commands


class Parsed(BaseException):
    """Ends a program once its command line is parsed; `words` are what its parser left to the settings."""

    def __init__(self, words: list[str]):
        super().__init__()
        self.words = words


def parse(path: Path, words: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Starts a program, stops it when its outermost parser is done, and returns the words left to the settings."""
    outermost = []

    def ends(method):
        def parse(self, *args, **kwargs):
            if outermost:  # what an outer call asks of this one, and parsers of subcommands
                return method(self, *args, **kwargs)
            outermost.append(self)
            result = method(self, *args, **kwargs)
            raise Parsed(result[1] if isinstance(result, tuple) else [])

        return parse

    with monkeypatch.context() as patch:
        patch.syspath_prepend(path.parent)  # as Python does for a program
        for name in ("parse_args", "parse_known_args"):
            patch.setattr(argparse.ArgumentParser, name, ends(getattr(argparse.ArgumentParser, name)))
        patch.setattr(sys, "argv", [str(path), *words])
        try:
            runpy.run_path(str(path), run_name="__main__")
        except Parsed as parsed:
            return parsed.words
        raise AssertionError(f"{path.name} did not parse its command line")


@pytest.mark.parametrize("command", UNIQUE)
def test_every_documented_command_is_valid(command: str, monkeypatch: pytest.MonkeyPatch, capsys):
    words = UNIQUE[command]
    if words[0] == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert words[1] in targets and all(re.match(r"ARGS=", word) for word in words[2:])
        return
    if words[1] == "-m":
        assert importlib.util.find_spec(words[2]) is not None
        return
    program, words = words[1], words[2:]
    if program == "planning_agent.py":
        check_settings(words)
    elif program == "sweep.py":  # it checks every command itself; paths of experiments are relative to the checkout
        monkeypatch.chdir(ROOT)
        assert sweep.main([*words, "--list"]) == 0, capsys.readouterr().err
    else:
        settings = parse(ROOT / program, words, monkeypatch)
        if settings:
            assert program != "collect.py" or words[0] == "episodes"
            check_settings(settings)


def check_settings(words: list[str]) -> None:
    """Asserts that planning_agent.py takes a command line, as far as can be seen without making an environment."""
    if words == ["--help"]:
        return
    config = load_config(words).resolved()
    assert config.planner in PLANNERS
    for task in envs.split_tasks(config.task):
        assert envs.split_task(task)[0] in envs.SUITES


def test_pages_show_commands_of_every_program():
    shown = {words[1] for words in COMMANDS if words[0] == "python"}
    programs = {path.name for path in ROOT.glob("*.py") if "if __name__" in path.read_text(encoding="utf-8")}
    assert programs <= shown


# What runs


def test_the_documented_table_is_made_of_the_results(tmp_path: Path, capsys):
    words = next(words[2:] for words in UNIQUE.values() if words[1] == "plot.py" and "results/" in words[3])
    with contextlib.chdir(ROOT):
        assert plot.main([*words, "--out", str(tmp_path)]) == 0
    table = (ROOT / "results" / "offline_reach" / "table.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out.split() == table.split()


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the module in own_environment.md, which can be imported."""
    (code,) = code_blocks(ROOT / "docs" / "own_environment.md", "python")
    (tmp_path / "my_envs.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    return tmp_path


def test_the_environment_in_the_pages_can_be_made(own_module: Path):
    words = next(words for words in UNIQUE.values() if "gym_my_envs:Reach-v0" in words)
    observations, actions = envs.spaces(load_config(words[2:]).resolved())
    assert observations["state"].shape == (2,) and actions.shape == (2,)
    batch = envs.make_vector_env(load_config(words[2:]).resolved(), 1, seed=0)
    try:
        obs, _ = batch.reset()
        outcomes = []
        for _ in range(20):  # straight to the goal, which is at most 15 steps away
            obs, reward, *_, info = batch.step(np.clip((0.5 - obs["state"]) / 0.1, -1, 1).astype(np.float32))
            outcomes.append((float(reward[0]), float(info["success"][0])))
    finally:
        batch.close()
    assert outcomes[0] == (0.0, 0.0) and outcomes[-1] == (1.0, 1.0)


# Sizes of the preset debug replace what a command gives of these; a run that collects nothing stays one.
BUDGETS = {name: str(value) for name, value in SCHEMA.presets["debug"].values.items()}
PROGRAMS = {"planning_agent.py", "collect.py", "evaluate.py", "plan_report.py", "plot.py"}


def shrink(words: list[str]) -> list[str]:
    """A documented command with the sizes of `debug`: what it says is parsed as it stands, then overridden."""
    program = words[1]
    if program == "plot.py" or words[2:3] in (["export"], ["import"]):
        return words
    given = {word.removeprefix("--") for word in words if word.startswith("--")}
    extra = [text for key, value in BUDGETS.items() if key in given for text in (f"--{key}", value)]
    if "--steps" in words and words[words.index("--steps") + 1] == "0":
        extra += ["--steps", "0"]
    if program in ("evaluate.py", "plan_report.py"):  # sizes of the model are those of the run
        extra = [*extra, *(["--episodes", "2", "--envs", "2"] if program == "evaluate.py" else [])]
        shown = ["--show", "0"] if "--show" in words else []
        rows = ["--rows", "0", "2"] if "--rows" in words else []
        return [*words, *extra, *shown, *rows]
    # No scripted policy succeeds in the few steps of an episode in debug.
    count = ["--episodes", "2", "--success_rate", "0"] if program == "collect.py" else []
    return [*words, "--configs", "debug", *extra, *count]


def possible(words: list[str], folder: Path) -> bool:
    """Whether a command can run in a folder in which the earlier ones of its page did."""
    if words[0] != "python" or words[1] not in PROGRAMS or "--help" in words:
        return False
    needed = {"--logdir": words[1] in ("evaluate.py", "plan_report.py"), "--offline_dir": True}
    paths = [words[words.index(option) + 1] for option, needs in needed.items() if needs and option in words]
    if words[1] == "plot.py":
        paths += [word for word in words[3:4] if "/" in word or word == "logdir"]
    if words[2:3] == ["export"]:
        paths.append(words[3])
    if words[2:3] == ["import"] and not (folder / "minari" / words[3]).exists():
        return False
    return all((folder / path).exists() for path in paths)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["README", "docs/planners", "docs/own_environment", "docs/data", "docs/evaluation"])
def test_the_commands_of_a_page_run(name: str, own_module: Path, monkeypatch: pytest.MonkeyPatch):
    page, folder = ROOT / f"{name}.md", own_module
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder / "minari"))
    (folder / "results").symlink_to(ROOT / "results")
    if page.name == "evaluation.md":  # its run is one of those in the README
        start = "--configs defaults metaworld debug --task metaworld_reach --logdir logdir/metaworld_reach/latco/0"
        run(["python", "planning_agent.py", *start.split()], folder)
    done = 0
    for words in commands(page.read_text(encoding="utf-8")):
        if possible(words, folder):
            run(shrink(words), folder)
            done += 1
    assert done >= 2


def run(words: list[str], folder: Path) -> None:
    """Runs a program of the checkout in another folder."""
    command = [sys.executable, str(ROOT / words[1]), *words[2:]]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stderr[-2000:]}"
