"""Signals in the first seconds of a program. Programs import this before anything else, and only when they are run."""

from tools.signals import quit_during_imports

quit_during_imports()
