"""Many runs on Ray; sweep.py is the command line."""
