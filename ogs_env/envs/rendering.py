"""What frames tell of an episode, and frames as text."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ogs_env.bundle import Bundle
from ogs_env.learners import Learner
from ogs_env.rewards import OWN, REFERENCE, answers_of

if TYPE_CHECKING:
    from ogs_env.envs.mixture import MixtureEnv
    from ogs_env.envs.selection import SelectionEnv

RENDER_MODES = ("human", "ansi", "rgb_array")

# Widths in characters; no line of a frame is longer than 96.
_BAR = 30
_SPARK = 44
_SPARKS = "▁▂▃▄▅▆▇█"
# A sparkline's scale spans at least this share of the first value.
_LEAST_SPREAD = 0.005


@dataclass(frozen=True)
class Anchor:
    """What frames show of general abilities: what the reward and the cost are about.

    Attributes:
        losses: Returns a learner's loss of each capability, (capabilities,), nats per
            token.
        label: Goes before a capability's name.
        title: What the losses are.
        term: The reward term that is made of them.
    """

    losses: Callable[[Learner], NDArray[np.floating]]
    label: str
    title: str
    term: str


_ANCHORS = {
    OWN: Anchor(
        lambda learner: learner.answer_losses(),
        "own answers",
        "loss on own answers",
        "forgetting",
    ),
    REFERENCE: Anchor(
        lambda learner: learner.anchor_losses(),
        "anchor",
        "anchor loss",
        "anchor_gain",
    ),
}


def anchor_of(bundle: Bundle) -> Anchor:
    """Return what frames show: the model's own answers where the bundle has them.

    Without those it is the anchor's samples, reference answers that come with the data.
    """
    return _ANCHORS[answers_of(bundle)]


def losses_now(bundle: Bundle, learner: Learner) -> NDArray[np.float32]:
    """Return the losses that frames show, float32 (1 + capabilities,).

    Nats per token: the domain's, and each capability's by `anchor_of`.
    """
    losses = [learner.domain_loss(), *anchor_of(bundle).losses(learner)]
    return np.array(losses, np.float32)


@dataclass(frozen=True)
class Pick:
    """A pick as it was made.

    Attributes:
        row: Pool row.
        slate_number: Of the slate it was picked from, from 0.
        place: Its place on the slate.
        seen: float32 (6,): domain cosine, anchor cosine, norm, loss, tokens, nearest.
        terms: The reward terms.
    """

    row: int
    slate_number: int
    place: int
    seen: NDArray[np.float32]
    terms: dict[str, float]


class History:
    """What frames need of an episode's steps; kept only where a render mode is set.

    Args:
        env: Just reset.

    Attributes:
        losses: float32 (budget + 1, 1 + capabilities), nats per token: the domain's
            and each capability's, as of `losses_now`, after so many picks.
        slate: Pool rows dealt to the slate, -1 where none was.
        seen: float32 (slate_size, 6), columns as in `Pick`, of the slate as dealt: what
            was picked from it stays as it looked.
        picks: All of the episode's.
        total: The return so far.
        last_step: What the last step did.
        over: Whether the episode is.
    """

    def __init__(self, env: "SelectionEnv") -> None:
        capabilities = len(env.bundle.capabilities)
        self.losses = np.zeros((env.budget + 1, 1 + capabilities), np.float32)
        self.picks: list[Pick] = []
        self.total, self.over = 0.0, False
        self.last_step = "last step: none yet"
        self._deal(env)
        self._look(env)

    def follow(
        self,
        env: "SelectionEnv",
        place: int,
        terms: dict[str, float],
        reward: float,
        over: bool,
    ) -> None:
        """Follow a step that is done, whose action was `place`."""
        self.total, self.over = self.total + reward, over
        if len(env.picked) > len(self.picks):
            seen, row = self.seen[place].copy(), env.picked[-1]
            self.picks.append(Pick(row, self._number, place, seen, terms))
            event = f"picked place {place}"
        elif place == env.slate_size:
            event = "skipped"
        else:
            event = f"place {place} is empty: invalid"
        self.last_step = f"last step: {event} ({reward:+.2f})"
        if env.slate_number != self._number:
            self._deal(env)
        self._look(env)

    def _deal(self, env: "SelectionEnv") -> None:
        self._number = env.slate_number
        self.slate = env.slate.copy()
        self.seen = np.zeros((env.slate_size, 6), np.float32)

    def _look(self, env: "SelectionEnv") -> None:
        d = env.bundle.basis.shape[1]
        there = env.slate >= 0
        self.seen[there] = env.observation()["candidates"][there, d : d + 6]
        self.losses[len(self.picks)] = losses_now(env.bundle, env.learner)


def selection_text(env: "SelectionEnv", history: History) -> str:
    """Return the frame of a `SelectionEnv`, no line longer than 96 characters."""
    count = len(history.picks)
    lines = [
        *_header(selection_title(env, history), count / env.budget, history.last_step),
        "",
        *_table(env, history),
        "",
        *_last_pick(env, history),
        "",
        *_losses(history.losses[: count + 1], env.bundle, env.budget),
    ]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def selection_title(env: "SelectionEnv", history: History) -> str:
    """Return how far the episode is, in one line."""
    return (
        f"{short(env.bundle.name, 20)}: slate {env.slate_number + 1} of "
        f"{env.slates_in_stream}, "
        f"{len(history.picks)} of {env.budget} picked, return {history.total:+.2f}"
        f"{', episode over' if history.over else ''}"
    )


def mixture_text(env: "MixtureEnv") -> str:
    """Return the frame of a `MixtureEnv`, no line longer than 96 characters."""
    lines = [
        *_header(mixture_title(env), env.batches / env.steps, mixture_last_step(env)),
        "",
        "   cluster   left  domain cos    Orth    Conf    norm  drawn  share",
    ]
    for cluster, row in enumerate(env.observation()["clusters"]):
        _, orth, conf, norm, domain, share = row[:6]
        mark = ">" if cluster == env.last_action else " "
        lines.append(
            f" {mark} {cluster:7d}  {env.left[cluster]:5d}  {domain:+10.3f}  "
            f"{orth:6.3f}  {conf:+6.3f}  {norm:+6.2f}  {env.picked_from[cluster]:5d}  "
            f"{share:5.0%}  " + "█" * round(share * 20)
        )
    lines += [
        "   (> last action; means over what is left; norm: deviations from the usual)",
        "",
        *_losses(np.stack(env.losses), env.bundle, env.steps),
    ]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def mixture_title(env: "MixtureEnv") -> str:
    """Return how far the episode is, in one line."""
    return (
        f"{short(env.bundle.name, 20)}: batch {env.batches} of {env.steps}, "
        f"return {sum(env.rewards):+.2f}, cost {sum(env.costs):.2f}"
        f"{', episode over' if env.over else ''}"
    )


def mixture_last_step(env: "MixtureEnv") -> str:
    """Return what the last step did."""
    if not env.rewards:
        return "last step: none yet"
    event = f"cluster {env.last_action}"
    if env._stalled:
        event += " is empty: invalid"
    return f"last step: {event} ({env.rewards[-1]:+.2f})"


def short(name: str, width: int) -> str:
    """Return a name in one line of at most `width` characters."""
    name = " ".join(name.split()) or "?"
    return name if len(name) <= width else name[: width - 1] + "…"


def sparkline(values: NDArray[np.floating], points: int) -> str:
    """Draw a curve in one line, 44 characters when it has all its points.

    Args:
        values: The first (n,) of the points, n >= 1, above 0. The least is drawn
            lowest; the scale spans half a percent of the first at least.
        points: How many there will be.
    """
    places = np.linspace(0, points - 1, _SPARK).round().astype(int)
    shown = values[places[places < len(values)]]
    spread = max(float(np.ptp(values)), _LEAST_SPREAD * float(values[0]))
    levels = (shown - values.min()) / spread * (len(_SPARKS) - 1)
    return "".join(_SPARKS[level] for level in levels.round().astype(int))


def _losses(losses: NDArray[np.floating], bundle: Bundle, budget: int) -> list[str]:
    """Draw each loss as a sparkline over the budget, with its change.

    Args:
        losses: Nats per token (n, 1 + capabilities), the domain's first, at the start
            and after each unit of the budget spent.
        bundle: Whose losses they are.
        budget: Units that there are.
    """
    label = anchor_of(bundle).label
    names = [short(f"{label}: {name}", 22) for name in bundle.capabilities]
    names = ["domain", *names]
    width = max(map(len, names))
    title = f"{'':{width}}  {'loss, nats per token':{_SPARK}}"
    lines = [f"{title}    start     now    change"]
    for name, values in zip(names, losses.T, strict=True):
        line = sparkline(values, budget + 1)
        lines.append(
            f"{name:{width}}  {line:{_SPARK}}  {values[0]:7.4f}  {values[-1]:7.4f}  "
            f"{100 * (values[-1] / values[0] - 1):+7.2f}%"
        )
    return lines


def _header(title: str, spent: float, last_step: str) -> list[str]:
    full = round(spent * _BAR)
    return [title, f"budget [{'█' * full}{'░' * (_BAR - full)}]   {last_step}"]


def _table(env: "SelectionEnv", history: History) -> list[str]:
    """Draw the slate: one line a place, so that all frames are of one height."""
    bundle = env.bundle
    lines = [
        "   place  sample            domain cos  anchor cos   norm   loss tokens  "
        "nearest  source",
    ]
    for place, row in enumerate(history.slate.tolist()):
        if row < 0:
            lines.append(f"   {place:5d}  (empty)")
            continue
        mark = " " if env.slate[place] >= 0 else "x"
        if mark == "x" and place == history.picks[-1].place:
            mark = ">"
        domain, anchor, norm, loss, tokens, nearest = history.seen[place]
        source = bundle.sources[bundle.pool.sources[row]]
        lines.append(
            f" {mark} {place:5d}  {int(bundle.pool.ids[row]):016x}  {domain:+10.3f}  "
            f"{anchor:+10.3f} {norm:+6.2f} {loss:+6.2f} {tokens:+6.2f}  "
            f"{nearest:+7.3f}  {short(source, 14)}"
        )
    lines.append(
        "   (> last pick, x picked before; norm, loss, tokens: in deviations from the "
        "proxy's usual)"
    )
    return lines


def _last_pick(env: "SelectionEnv", history: History) -> list[str]:
    if not history.picks:
        return ["last pick: none yet", ""]
    bundle, pick = env.bundle, history.picks[-1]
    domain, anchor = pick.seen[:2]
    gains = [
        f"{term.replace('_', ' ')} {pick.terms[term]:+.3f}%"
        for term in ("domain_gain", anchor_of(bundle).term)
    ]
    source = bundle.sources[bundle.pool.sources[pick.row]]
    return [
        f"last pick: {int(bundle.pool.ids[pick.row]):016x} of {short(source, 30)}, "
        f"slate {pick.slate_number + 1}, place {pick.place}",
        f"           cosine with domain {domain:+.3f}, anchor {anchor:+.3f}; "
        + ", ".join(gains),
    ]
