"""Frames that tell an episode's state."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ogs_env.envs.selection import SelectionEnv


def ansi(env: "SelectionEnv") -> str:
    """Return the table as text: one line a place, empty places left out."""
    bundle, d = env.bundle, env.bundle.basis.shape[1]
    seen = env.observation()["candidates"]
    lines = [
        f"{bundle.name}: hand {env.hand + 1} of {env.hands_in_stream}, "
        f"{len(env.picked)} of {env.budget} picked, "
        f"domain loss {env.learner.domain_loss():.4f}",
        "place  sample            domain  anchor    norm    loss  nearest  source",
    ]
    for place, row in enumerate(env.table.tolist()):
        if row >= 0:
            domain, anchor, norm, loss, nearest = seen[place, d : d + 5]
            lines.append(
                f"{place:5d}  {int(bundle.pool.ids[row]):016x}  {domain:6.3f}  "
                f"{anchor:6.3f}  {norm:6.2f}  {loss:6.2f}  {nearest:7.3f}  "
                f"{bundle.sources[bundle.pool.sources[row]]}"
            )
    return "\n".join(lines) + "\n"
