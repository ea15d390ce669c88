"""The planners, a file each; what all of them share is in optimizers.py."""
