"""Log directories: how a run is called, and folders that are none."""

import pytest

from tools.config import load_config
from tools.errors import UserError
from training.logdir import check_logdir, method_of, read_config


def test_method_is_the_folder_above_the_seed_or_else_the_planner(tmp_path, monkeypatch):
    config = {"planner": "latco", "seed": 3}
    assert method_of(tmp_path / "no_relaxation" / "3", config) == "no_relaxation"
    assert method_of(tmp_path / "no_relaxation" / "4", config) == "latco"
    (tmp_path / "ours" / "3").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "ours" / "3")
    assert method_of(".", config) == "ours"


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
