"""Generated command lines: each runs or is refused in one sentence."""

import itertools

import hypothesis
import pytest
from hypothesis import strategies as st

import envs
import planning_agent
from agents import PLANNERS, agent_class
from tests.training.fakes import FakeAgent, replace_simulators
from tools.memory import enough_memory
from tools.schema import Setting, read_schema
from training.contradictions import check_settings
from training.run import TrainingRun

# How much work a run is; larger values are accepted and take their time.
WORK = ("steps", "eval_episodes", "envs", "pretrain", "train_steps", "prefill", "batch_size", "batch_length")
NUMBERS = ("-1", "0", "1", "2", "3", "7", "1e1", "0.5", "x", "", "nan", "inf", "-inf", "1e30", str(2**31), str(2**63))
LARGE = ("100", "12345", str(2**31 - 1))
TINY_AND_HUGE = ("1e-320", "1e-9", "0.999999", "1e9", "1e308", "-1e308", "1e999")
TEXTS = {
    "task": ["pointmass_obstacle", "pointmass_obstacle,pointmass_lottery", "pointmass", "dmc_x,dmc_x", "{task}", ""],
    "planner": [*PLANNERS, "latcoo", ""],
    "offline_dir": ["", "nowhere", "{nothing}"],
    "init_from": ["", "nowhere"],
}


def values(setting: Setting) -> st.SearchStrategy:
    """Texts for one setting: those at its edges, and nonsense."""
    if setting.name in TEXTS:
        return st.sampled_from(TEXTS[setting.name])
    if setting.kind is bool:
        return st.sampled_from(["true", "false", "maybe", ""])
    if setting.kind is str:
        return st.sampled_from([*map(str, setting.choices), setting.default]) | st.text(max_size=6)
    edges = [] if setting.range is None else [f"{end:g}" for end in (setting.range.low, setting.range.high)]
    larger = () if setting.name in WORK else LARGE
    return st.sampled_from([*NUMBERS, *edges, *larger, *(TINY_AND_HUGE if setting.kind is float else ())])


SETTINGS = {name: setting for name, setting in read_schema().settings.items() if name != "logdir"}
PAIRS = st.sampled_from(list(SETTINGS)).flatmap(lambda name: st.tuples(st.just(f"--{name}"), values(SETTINGS[name])))
WORDS = st.one_of(PAIRS, PAIRS, PAIRS, st.tuples(st.sampled_from(["--configs", "--sped", "-x", "--", "dmc", "gym"])))


class QuickAgent(FakeAgent):
    """Checks settings as an agent does, and trains nothing."""

    def __init__(self, config):
        agent_class(config.planner)
        for task in envs.split_tasks(config.task):
            envs.split_task(task)
        check_settings(config)
        super().__init__(config)

    def train(self, logdir, begin):
        with enough_memory():
            TrainingRun(self, logdir, quiet=True, begin=begin).run()


@pytest.fixture
def check(tmp_path, monkeypatch, capsys):
    """Runs the program with an agent and environments that do nothing; returns its exit code."""
    replace_simulators(monkeypatch, lambda task, index: 3 + index)
    monkeypatch.setattr(planning_agent, "make_agent", QuickAgent)
    numbers = itertools.count()

    def run(words):
        base = ["--configs", "debug", "--task", "pointmass_obstacle", "--steps", "20", "--media", "false"]
        base += ["--logdir", str(tmp_path / str(next(numbers))), "--prefill", "4", "--eval_every", "10"]
        code = planning_agent.main([*base, *words])
        said = capsys.readouterr().err
        assert code in (0, 2), said
        if code == 2:
            last = said.splitlines()[-1]
            assert last.startswith("error: ") and len(last) < 1000 and said.count("error: ") == 1
        return code

    return run


def try_many(check, count):
    """The exit codes of generated commands."""
    codes = []

    @hypothesis.given(st.lists(WORDS, max_size=5))
    @hypothesis.settings(max_examples=count, suppress_health_check=list(hypothesis.HealthCheck))
    def each(parts):
        codes.append(check([word for part in parts for word in part]))

    each()
    return codes


def test_generated_commands_run_or_are_refused(check):
    codes = try_many(check, 40)
    assert {0, 2} == set(codes)


@pytest.mark.slow
def test_thousand_generated_commands_run_or_are_refused(check):
    codes = try_many(check, 1000)
    assert codes.count(0) > 100 and codes.count(2) > 100


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--train_every", "-1"], "--train_every is -1: choose a number from 0 on"),
        (["--batch_length", "1000000000"], "GiB of memory at least"),
        (["--batch_size", "1000000000"], "GiB of memory at least"),
        (["--envs", "100000000"], "the processes of 100000000 environments need"),
        (["--seed", str(2**63)], "--seed is too large"),
        (["--steps", "1e30"], "--steps is too large"),
        (["--model_lr", "inf"], "--model_lr must be a finite number, not inf"),
        (["--reward_scale", "1e308"], "--reward_scale is too large"),
    ],
)
def test_settings_that_ended_in_a_traceback_are_refused(check, tmp_path, words, sentence, capsys):
    assert planning_agent.main(["--configs", "debug", "--logdir", str(tmp_path / "run"), *words]) == 2
    assert sentence in capsys.readouterr().err and not (tmp_path / "run").exists()


NONSENSE = {
    "eval_every 1": ["--eval_every", "1", "--steps", "4", "--prefill", "2", "--time_limit", "2"],
    "time_limit 1": ["--time_limit", "1", "--steps", "12", "--prefill", "4"],
    "replay_capacity 1": ["--replay_capacity", "1"],
    "train_every 0": ["--train_every", "0"],
    "train_every 1": ["--train_every", "1", "--steps", "44"],
    "no prefill": ["--prefill", "0"],
    "no pretraining": ["--pretrain", "0"],
    "prefill alone": ["--prefill", "1000"],
    "plans of one action": ["--planning_horizon", "1", "--mpc_steps", "1", "--planner", "cem"],
    "more executed than planned": ["--planning_horizon", "2", "--mpc_steps", "9"],
    "one candidate": ["--planner", "random_shooting", "--cem_candidates", "1"],
    "chunks longer than episodes": ["--batch_length", "50", "--overshooting", "49"],
    "more environments than steps": ["--envs", "3", "--steps", "2", "--prefill", "1", "--eval_every", "0"],
    "rewards without range": ["--reward_scale", "3e38"],
    "a tiny model": ["--stoch", "1", "--deter", "1", "--hidden", "1", "--cnn_depth", "1", "--reward_layers", "0"],
    "elites beyond candidates": ["--planner", "cem", "--sampling_elites", "50", "--cem_candidates", "20"],
}
# These say what is wrong, the others run.
REFUSED = {
    "more executed than planned": "mpc_steps is 9",
    "more environments than steps": "No episode",
    "elites beyond candidates": "elites",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NONSENSE)
def test_accepted_nonsense_is_really_run(tmp_path, capsys, name):
    words = ["--configs", "pointmass", "debug", "--steps", "60", "--media", "false", "--logdir", str(tmp_path / "run")]
    code = planning_agent.main([*words, *NONSENSE[name]])
    said = capsys.readouterr().err
    assert code == (2 if name in REFUSED else 0), said
    if name in REFUSED:
        assert REFUSED[name] in said.splitlines()[-1]
    else:
        assert (tmp_path / "run" / "checkpoints" / "checkpoint").exists()
        assert (tmp_path / "run" / "metrics.jsonl").stat().st_size
