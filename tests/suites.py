"""The tasks of whole suites, for tests: call these in another process, since they import the simulators."""

import importlib

import envs


def task_names(suite: str) -> list[str]:
    """Every task of a suite, each as `<suite>_<name>`."""
    module = importlib.import_module(envs.SUITES[suite].split(":")[0])
    return [f"{suite}_{name}" for name in module.names()]
