"""Log directories: names of runs, what a resumed run may not change, and folders of another kind."""

import pytest

from tools.config import load_config
from tools.errors import UserError
from training.logdir import check_logdir, method_of, open_logdir, read_config


def test_method_is_the_folder_above_the_seed_or_else_the_planner(tmp_path, monkeypatch):
    config = {"planner": "latco", "seed": 3}
    assert method_of(tmp_path / "no_relaxation" / "3", config) == "no_relaxation"
    assert method_of(tmp_path / "no_relaxation" / "4", config) == "latco"
    (tmp_path / "ours" / "3").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "ours" / "3")
    assert method_of(".", config) == "ours"


def test_log_directory_of_another_model_is_refused_and_left_alone(tiny_config):
    logdir = open_logdir(tiny_config, [])
    saved = (logdir / "config.yaml").read_bytes()
    with pytest.raises(UserError, match="deter = 8"):
        open_logdir(tiny_config.replace(deter=16), [])
    with pytest.raises(UserError, match="cost_head = False"):
        open_logdir(tiny_config.replace(cost_head=True), [])
    with pytest.raises(UserError, match="randomize = True"):
        open_logdir(tiny_config.replace(randomize=False), [])
    with pytest.raises(UserError, match="policy_memory = .*, this command says 7"):
        open_logdir(tiny_config.replace(policy_memory=7), [])
    with pytest.raises(UserError, match="render_quality = fast"):
        open_logdir(tiny_config.replace(render_quality="full"), [])
    assert (logdir / "config.yaml").read_bytes() == saved
    open_logdir(tiny_config.replace(steps=999), ["--steps", "999"])
    assert len((logdir / "runs.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("name: another project\nlr: 0.1\n", "has no task"),
        ("model:\n  name: another\n", "not a dict: name the folder of a run"),
        ("[" * 600, "not valid YAML"),
        ("\0", "not valid YAML"),
        ("- 1\n", "must hold names with values"),
    ],
)
def test_the_config_of_another_project_is_refused_and_stays(tmp_path, content, words):
    """Also where the run has nothing but defaults, which agree with all that the file does not say."""
    path = tmp_path / "config.yaml"
    path.write_text(content)
    for check in (read_config, lambda logdir: check_logdir(load_config(["--logdir", str(logdir)]))):
        with pytest.raises(UserError, match=words) as error:
            check(tmp_path)
        assert "\n" not in str(error.value) and path.read_text() == content


def test_an_empty_logdir_is_not_the_present_folder():
    with pytest.raises(UserError, match="--logdir is empty"):
        check_logdir(load_config(["--logdir", ""]))
