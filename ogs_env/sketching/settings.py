"""Settings of `ogs sketch`."""

from dataclasses import dataclass, field

from ogs_env.learners.fitted import EPOCHS, LAYERS
from ogs_env.lm.loading import DEFAULT_MODEL

ANCHOR_ANSWERS = ("own", "reference", "both")


@dataclass(frozen=True)
class SketchSettings:
    """Settings of the sketches of a bundle.

    Attributes:
        proxy: Hugging Face causal LM id, folder, GGUF file, or the packaged default.
        precision: `"float32"` or `"bfloat16"` for the frozen weights; `"auto"`
            chooses bfloat16 if it is clearly faster on this machine.
        k: Dimensions of a sketch.
        layers: Decoder layers, from the last, that carry the adapter.
        rank: LoRA rank; the adapter's alpha is twice that.
        checkpoints: Warm-up steps at which trajectory sketches are taken; empty for a
            bundle without a trajectory.
        anchor_answers: The answers that represent a capability: the samples'
            `"reference"` answers, the proxy's `"own"` answers to the same prompts, or
            `"both"`. References are always sketched, because observations use them;
            `"own"` and `"both"` differ in the default reward.
        epochs: How many epochs environments train the target on a selection.
        learning_rate: Peak learning rate of the warm-up.
        max_tokens: Maximum number of tokens of a sample; `encode` cuts longer ones.
            Own answers have at most half as many, and at most 128.
        seed: Seed of adapter, projection and warm-up.
    """

    proxy: str = DEFAULT_MODEL
    precision: str = field(
        default="auto", metadata={"choices": ("auto", "float32", "bfloat16")}
    )
    k: int = 512
    layers: int = LAYERS
    rank: int = 16
    checkpoints: tuple[int, ...] = ()
    anchor_answers: str = field(default="own", metadata={"choices": ANCHOR_ANSWERS})
    epochs: int = EPOCHS
    learning_rate: float = 1e-3
    max_tokens: int = 256
    seed: int = 0
