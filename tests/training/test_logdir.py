"""Log directories: how a run is called."""

from training.logdir import method_of


def test_method_is_the_folder_above_the_seed_or_else_the_planner(tmp_path, monkeypatch):
    config = {"planner": "latco", "seed": 3}
    assert method_of(tmp_path / "no_relaxation" / "3", config) == "no_relaxation"
    assert method_of(tmp_path / "no_relaxation" / "4", config) == "latco"
    (tmp_path / "ours" / "3").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "ours" / "3")
    assert method_of(".", config) == "ours"
