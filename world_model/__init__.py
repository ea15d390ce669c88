"""The parts of the world model, which models.py puts together, and of what is learned beside it."""
