"""The parts of the world model, which models.py puts together, and the value network."""
