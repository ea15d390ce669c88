"""Log directories: how a run is called, and what a resumed run may not change."""

import pytest

from tools.errors import UserError
from training.logdir import method_of, open_logdir


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
    with pytest.raises(UserError, match="render_quality = fast"):
        open_logdir(tiny_config.replace(render_quality="full"), [])
    assert (logdir / "config.yaml").read_bytes() == saved
    open_logdir(tiny_config.replace(steps=999), ["--steps", "999"])
    assert len((logdir / "runs.jsonl").read_text().splitlines()) == 2
