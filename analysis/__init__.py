"""From log directories to figures and tables, without TensorFlow; plot.py is the command line."""
