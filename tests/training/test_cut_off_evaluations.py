"""An evaluation that was cut off is made by the next start."""

import itertools
import json

import pytest

from tests.training.fakes import make_run, replace_simulators, short_run


@pytest.fixture
def config(tiny_config):
    every = {"train_every": 4, "eval_every": 20, "checkpoint_every": 20, "log_every": 10}
    return short_run(tiny_config, steps=60, prefill=10, pretrain=3, train_steps=2, eval_episodes=2, **every)


class CutError(Exception):
    pass


def evaluated_steps(logdir):
    rows = [json.loads(line) for line in (logdir / "metrics.jsonl").read_text().splitlines()]
    return [row["step"] for row in rows if "eval/return" in row]


@pytest.mark.parametrize("number, expected", [(1, [10, 20]), (2, [10, 20]), (3, [10, 20, 40])])
def test_an_evaluation_that_was_cut_off_is_made(monkeypatch, config, tmp_path, number, expected):
    replace_simulators(monkeypatch, lambda task, index: 5)
    config = config.replace(steps=40 if number == 3 else 20)
    run = make_run(config, tmp_path)
    evaluation, calls = run.evaluation, itertools.count(1)

    def cut(collector):
        if next(calls) == number:
            raise CutError
        evaluation(collector)

    run.evaluation = cut
    with pytest.raises(CutError):
        run.run()
    assert evaluated_steps(tmp_path) == expected[: number - 1]
    make_run(config, tmp_path).run()
    assert evaluated_steps(tmp_path) == expected


def test_the_last_evaluation_of_an_offline_run_is_made_after_it_was_cut_off(monkeypatch, config, tmp_path):
    replace_simulators(monkeypatch, lambda task, index: 5)
    make_run(config.replace(steps=20, eval_every=0), tmp_path / "data").run()
    config = config.replace(steps=0, offline_dir=str(tmp_path / "data" / "episodes"), pretrain=7, eval_every=50)
    run = make_run(config, tmp_path / "run")
    monkeypatch.setattr(run, "evaluation", lambda collector: (_ for _ in ()).throw(CutError))
    with pytest.raises(CutError):
        run.run()
    for _ in range(2):
        make_run(config, tmp_path / "run").run()
        assert evaluated_steps(tmp_path / "run") == [7]
