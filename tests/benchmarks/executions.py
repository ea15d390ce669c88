"""An environment on a line, and plans, for the tests of plan_quality.py and its parts."""

import numpy as np

from benchmarks.plan_losses import Plans

DEBUG = ["--configs", "defaults", "pointmass", "debug"]


def plans(*scores):
    """Plans of one step whose only action says which they are."""
    scores = np.array(scores, np.float32)
    return Plans(scores[:, None, None], scores, scores)


class Line:
    """Two environments: a step pays seed + action; the one with an odd seed ends at its second step."""

    num_envs = 2

    def __init__(self):
        self.seeds, self.steps, self.ended = [0, 0], np.zeros(2, int), np.zeros(2, bool)

    def reset(self, seed=None, options=None):
        mask = np.ones(2, bool) if options is None else options["reset_mask"]
        self.seeds = self.seeds if seed is None else seed
        self.steps[mask], self.ended[mask] = 0, False
        return {"image": np.zeros([2, 64, 64, 3], np.uint8)}, {}

    def step(self, action):
        assert not self.ended.any()
        self.steps += 1
        self.ended = (np.array(self.seeds) % 2 == 1) & (self.steps == 2)
        reward = np.array(self.seeds) + action[:, 0]
        return {}, reward, self.ended.copy(), np.zeros(2, bool), {"success": np.float32(reward > 4)}
