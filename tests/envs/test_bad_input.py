from pathlib import Path
from typing import Any

import pytest

from ogs_env.envs.selection import SelectionEnv
from ogs_env.errors import InputError


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"split": "trian"}, "unknown split 'trian'; did you mean train"),
        ({"order": "block"}, "unknown order 'block'; did you mean blocks"),
        (
            {"observe": "trajectorie"},
            "unknown observe 'trajectorie'; did you mean trajectory",
        ),
        ({"render_mode": "rgb"}, "unknown render mode 'rgb'; did you mean rgb_array"),
        ({"reward_weights": {"gain": 1}}, "unknown reward term 'gain'"),
        ({"reward_weights": 3}, "reward_weights: 3; expected a weight for each name"),
        ({"split": 3}, "unknown split '3'; known: all, test, train"),
        ({"budget": 0}, "budget: 0; expected at least 1"),
        ({"num_slates": 2.0}, r"num_slates: 2\.0; expected a whole number"),
        ({"slate_size": True}, "slate_size: True; expected a whole number"),
        ({"fill": 1}, "fill: 1; expected True or False"),
        ({"fill": "yes"}, "fill: 'yes'; expected True or False"),
        ({"epochs": "3"}, "epochs: '3'; expected a number above 0, at most 1,000,000"),
        ({"epochs": True}, "epochs: True; expected a number above 0"),
        ({"epochs": float("nan")}, "epochs: nan; expected a number above 0"),
        ({"epochs": 1e300}, r"epochs: 1e\+300; expected a number above 0, at most"),
        ({"budget": 33, "num_slates": 2}, "33 picks from a stream of 32 candidates"),
        (
            {"num_slates": 64},
            r"64 slates of 16 is 1024 .* split 'train' has \d+; use fewer",
        ),
    ],
)
def test_bad_arguments(
    bundle_folder: Path, kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        SelectionEnv(str(bundle_folder), **kwargs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"indices": [1, 2, 3]}, "3 candidates; expected at least the budget 5 and"),
        (
            {"indices": range(25)},
            r"25 candidates; .* at most num_slates \* slate_size = 24",
        ),
        (
            {"indices": [0, 1, 2, 3, 480]},
            "480 is no row of the pool; expected 0 to",
        ),
        ({"indices": [0, 1, 2, 3, -1]}, "-1 is no row of the pool"),
        ({"indices": [0, 1, 2, 3, 3]}, "row 3 is given 2 times"),
        ({"indices": [0.5] * 5}, "expected a list of whole numbers, found float64"),
        ({"indices": [[1]]}, r"expected a list of whole numbers, .* shape \(1, 1\)"),
        ({"index": [1]}, "unknown reset option 'index'; did you mean indices"),
    ],
)
def test_bad_options(
    bundle_folder: Path, options: dict[str, Any], message: str
) -> None:
    env = SelectionEnv(str(bundle_folder), slate_size=4, num_slates=6, budget=5)
    with pytest.raises(InputError, match=message):
        env.reset(options=options)
