"""Methods of the study: how to select data, or how to change gradients."""

import re
from dataclasses import dataclass

from ogs_env.agents.screening import SCREENED
from ogs_env.errors import unknown_name

BASELINES = (
    "less",
    "greedy",
    "grad-match",
    "pgm",
    "rds",
    "dsir",
    "length-matched",
    "information",
)
SURGERY = ("agem", "pcgrad", "ogd", "upgrad")
CONSTRAINED = "constrained"
NAVIGATORS = ("navigator", CONSTRAINED, "imitation")
RANDOM, LARGER, ALL = "random", "random30", "all"
LESS_TRAJECTORY, ORACLE, AUTO = "less-trajectory", "oracle", "auto"
LARGER_FACTOR = 3
"""`random30` selects so many times the share of the other methods."""

_SCREENABLE = (*BASELINES, ORACLE, *NAVIGATORS)
_SEEDED = re.compile(r"(?P<kind>[a-z0-9]+)-(?P<seed>0|[1-9][0-9]{0,8})")
_SINGLE = (*BASELINES, *SURGERY, ALL, LESS_TRAJECTORY, ORACLE, AUTO)


@dataclass(frozen=True)
class Method:
    """A method of the study.

    Attributes:
        name: Its name in the settings, such as `navigator-1`.
        kind: What it is, such as `navigator` or `screened-oracle`.
        seed: Number of the draw or of the training; 0 for methods without one.
    """

    name: str
    kind: str
    seed: int = 0

    @property
    def is_surgery(self) -> bool:
        """Whether it trains on random data and changes the gradients."""
        return self.kind in SURGERY

    @property
    def agent(self) -> str | None:
        """What trains the agent that it needs, such as `navigator`, if any."""
        kind = self.kind.removeprefix(SCREENED)
        return kind if kind in NAVIGATORS else None


def parse_method(name: str) -> Method:
    """Return the method of a name.

    Raises:
        InputError: If there is no such method.
    """
    if name in _SINGLE:
        return Method(name, name)
    if name.startswith(SCREENED):
        screened = parse_method(name.removeprefix(SCREENED))
        if screened.kind in _SCREENABLE:
            return Method(name, SCREENED + screened.kind, screened.seed)
    match = _SEEDED.fullmatch(name)
    if match and match["kind"] in (RANDOM, LARGER, *NAVIGATORS):
        return Method(name, match["kind"], int(match["seed"]))
    seeded = [f"{kind}-0" for kind in (RANDOM, LARGER, *NAVIGATORS)]
    known = [*_SINGLE, *seeded, SCREENED + ORACLE]
    raise unknown_name("method", name, known)
