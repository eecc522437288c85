"""How a bundle is sketched."""

from dataclasses import dataclass

from ogs_env.learners.fitted import EPOCHS, LAYERS
from ogs_env.sketching.proxy import DEFAULT_MODEL

ANCHOR_ANSWERS = ("own", "reference", "both")


@dataclass(frozen=True)
class SketchSettings:
    """How a bundle is sketched.

    Attributes:
        proxy: Hugging Face causal LM id, folder, or the packaged default.
        precision: `"float32"` or `"bfloat16"` for the frozen weights; `"auto"`
            takes bfloat16 where the machine is clearly faster at it.
        k: Dimensions of a sketch.
        layers: Decoder layers, from the last, that carry the adapter.
        rank: LoRA rank; the adapter's alpha is twice that.
        checkpoints: Warm-up steps at which trajectory sketches are taken; none: no
            path.
        off_domain: Whether the pool and the anchor are also sketched along a second
            warm-up, on the pool's samples from outside the domain; for domains that
            are drawn from the pool.
        anchor_answers: What stands for a capability: the samples' `"reference"`
            answers, the proxy's `"own"` answers to the same prompts, or `"both"`.
            References are always sketched, as observations are about them; `"own"`
            and `"both"` differ in the default reward.
        epochs: How often the target is trained on a selection, for environments.
        learning_rate: Peak learning rate of the warm-up.
        max_tokens: Longest sample; see `encode` for what is cut. Own answers have
            at most half of them, and never more than 128.
        seed: Seed of adapter, projection and warm-up.
    """

    proxy: str = DEFAULT_MODEL
    precision: str = "auto"
    k: int = 512
    layers: int = LAYERS
    rank: int = 16
    checkpoints: tuple[int, ...] = ()
    off_domain: bool = False
    anchor_answers: str = "own"
    epochs: int = EPOCHS
    learning_rate: float = 1e-3
    max_tokens: int = 256
    seed: int = 0
