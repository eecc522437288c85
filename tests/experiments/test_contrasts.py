"""Runs compared on the same held-out samples."""

import numpy as np
import pytest

from ogs_env.experiments.contrasts import change, contrasts, lines


def result(selector, before, after, answers=(1.0, 1.0)):
    def losses(each):
        return {"each": list(each), "per_sample": float(np.mean(each))}

    return {
        "selection": selector,
        "selector": selector,
        "before": {"test": losses(before), "answers": losses([1.0, 1.0])},
        "after": {"test": losses(after), "answers": losses(answers)},
    }


def test_a_change_is_of_the_means_and_its_interval_is_over_samples():
    one = change(result("less", [1.0, 3.0], [0.5, 2.5]), "test")
    assert one["mean"] == pytest.approx(-25)
    # Drawn twice: the first sample halves, the second loses a sixth.
    assert one["low"] == pytest.approx(-50)
    assert one["high"] == pytest.approx(-100 / 6)
    same = change(result("less", [1.0, 3.0], [0.5, 1.5]), "test")
    assert [same[end] for end in ("low", "high")] == pytest.approx([-50, -50])


def test_contrasts_are_paired_by_sample():
    before = [5.0, 1.0]
    comparisons = contrasts(
        [
            result("oracle", before, [4.0, 0.0], [1.5, 1.5]),
            result("random", before, [4.5, 0.5], [1.0, 1.0]),
            result("random", before, [4.7, 0.7], [1.9, 1.9]),
            result("less", before, [3.0, 0.5]),
        ]
    )
    assert comparisons.keys() == {"random", "less"}
    own = comparisons["random"]["test"]
    # Samples differ by 4, the runs' differences not at all.
    assert [own[n] for n in ("mean", "low", "high")] == pytest.approx([-0.6] * 3)
    assert (own["runs"], own["lower_than"]) == (2, 2)
    assert comparisons["random"]["answers"]["lower_than"] == 1
    own = comparisons["less"]["test"]
    assert [own[n] for n in ("mean", "low", "high")] == pytest.approx([0.25, -0.5, 1])
    assert (own["runs"], own["lower_than"]) == (1, 0)
    first, second = lines(comparisons, "oracle")
    assert first == (
        "oracle less random, nats: domain test -0.600 [-0.600, -0.600], lower than 2 "
        "of 2; own answers +0.050 [+0.050, +0.050], lower than 1 of 2"
    )
    assert second.startswith("oracle less less, nats: domain test +0.250 [-0.500, +1")


def test_a_run_alone_has_no_contrast():
    assert contrasts([result("less", [1.0], [0.5], [1.0])]) == {}
