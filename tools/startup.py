"""The first second of a program: its streams and signals. Programs import this before all else, only when they run."""

from tools.signals import quit_during_imports
from tools.streams import open_closed_streams

open_closed_streams()
quit_during_imports()
