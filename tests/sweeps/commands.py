"""Command lines of sweeps."""

import shlex

import sweep

TASKS = ["pointmass_obstacle", "pointmass_lottery"]
DEBUG = ["--configs", "pointmass", "debug"]


def command(out, *words, tasks=TASKS[:1], planners=("cem",), seeds=(0,)):
    seeds = map(str, seeds)
    return ["--tasks", *tasks, "--planners", *planners, "--seeds", *seeds, "--out", str(out), *DEBUG, *words]


def listed(capsys, argv):
    assert sweep.main([*argv, "--list"]) == 0
    return [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
