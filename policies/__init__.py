"""Policies: the actor, how it is learned in imagination (Dreamer), and how it is learned from plans."""
