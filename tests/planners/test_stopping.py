"""When a search stops early: after iterations in a row that change little, with constraints that hold."""

import dataclasses
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf
from problems import curved

from planners.first_order_latco import FirstOrderLatCo
from planners.gd import GD
from planners.gn import GN
from planners.latco import LatCo
from planners.stopping import iterate

H = 4
EPS = {"dynamics_violation": 1e-2, "action_violation": 1e-3, "constraint_violation": 1e-4}
PLANNERS = {
    "gd": lambda eps: GD(curved(), H, 1, eps_act=eps["action_violation"]),
    "gn": lambda eps: GN(curved(), H, 1, eps_act=eps["action_violation"]),
    "latco_first_order": lambda eps: FirstOrderLatCo(
        curved(), H, 1, eps_dyn=eps["dynamics_violation"], eps_act=eps["action_violation"]
    ),
    "latco": lambda eps: LatCo(
        dataclasses.replace(curved(), constraint=lambda z: z),
        H,
        1,
        eps_dyn=eps["dynamics_violation"],
        eps_act=eps["action_violation"],
        eps_con=eps["constraint_violation"],
    ),
}


class Steps(NamedTuple):
    """How many iterations a plan has seen."""

    count: tf.Tensor
    metrics: tf.Tensor


def run(changes, limit):
    """Iterations of plans whose changes are small (+) or large (-): steps, history and count."""
    small = tf.constant([[sign == "+" for sign in row] for row in changes])
    B, K = small.shape
    body = lambda k, steps: Steps(steps.count + 1, steps.metrics + 1.0)
    start = Steps(tf.zeros([B], tf.int32), tf.zeros([B, 1]))
    found = iterate(body, start, tf.constant(limit), K, lambda k, after, before: tf.gather(small, k, axis=1))
    return found[0].count.numpy().tolist(), found[1][:, 0].numpy(), found[2].numpy().tolist()


def test_a_plan_stops_after_five_small_changes_in_a_row():
    changes = ["-++++-+++++-----", "----------------", "+++++-----------"]
    steps, history, count = run(changes, 16)
    assert steps == count == [11, 16, 5]
    np.testing.assert_array_equal(history, np.minimum(np.arange(1, 17), np.array(count)[:, None]))  # then it is held
    assert run(changes, 3)[0] == [3, 3, 3]
    steps, history, _ = run([changes[0], changes[2]], 16)
    assert steps == [11, 5] and not history[:, 11:].any(), "nobody goes on"


def test_a_change_is_small_beside_the_reward_or_one_where_nothing_is_wrong():
    planner = GD(curved(), H, 9, eps_act=1e-3, tolerance=0.1)
    # before, after, violation, iterates that were rejected, expected
    rows = [
        (10.0, 10.9, 0.0, 0, True),
        (-10.0, -10.9, 0.0, 0, True),
        (10.0, 11.2, 0.0, 0, False),
        (0.1, 0.19, 0.0, 0, True),
        (0.1, 0.25, 0.0, 0, False),
        (10.0, 10.9, 1.1 * H * 1e-3, 0, False),
        (10.0, 10.9, 0.0, 1, False),
    ]
    before, after, violation, rejected, expected = zip(*rows, strict=True)
    ones = [1.0] * len(rows)
    search = lambda reward, number: SimpleNamespace(
        metrics=tf.stack([tf.constant(x) for x in (reward, violation, ones)], 1), non_finite=tf.constant(number)
    )
    old, new = search(before, [0] * len(rows)), search(after, rejected)
    assert planner._is_stable(3, new, old).numpy().tolist() == list(expected)
    assert not planner._is_stable(0, new, old).numpy().any(), "the first iteration changes nothing yet"


@pytest.mark.parametrize("name", PLANNERS)
def test_each_constraint_has_its_own_threshold_for_every_step(name):
    planner = PLANNERS[name](EPS)
    kept = {curve: 0.9 * H * EPS[curve] for curve in planner.CURVES if curve in EPS}
    rows = [kept, *({**kept, curve: 1.1 * H * EPS[curve]} for curve in kept)]
    metrics = [[row.get(curve, 100.0) for curve in planner.CURVES] for row in rows]
    assert planner._meets_constraints(tf.constant(metrics)).numpy().tolist() == [True] + [False] * len(kept)
    if name == "latco":  # of which restarts are no worse
        excess = planner._above_tolerance(tf.constant([0.9, 1.5]) * H * EPS["constraint_violation"])
        np.testing.assert_allclose(excess, [0.0, 0.5 * H * EPS["constraint_violation"]], rtol=1e-5)
