"""Pages of the environments, made from the registry and the class docstrings."""

import importlib
import inspect
import io
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import benchmark
import gymnasium
import numpy as np
from formulas import typeset
from gymnasium.envs.registration import EnvSpec
from PIL import Image

import ogs_env  # noqa: F401  (registers the ids)

_REFERENCES = {
    "random": "random picks",
    "greedy": "greedy, by cosines of one slate",
    "navigator": "Navigator (PPO), five training seeds",
    "oracle": "oracle, which sees the whole stream and the trajectory sketches",
}
_RETURNS = """\
Interquartile mean of the return over the same 100 episodes of the test split, with 95 %
bootstrap intervals. The [benchmark](../benchmark.md) has all selectors.
"""
_METHODS = "reset", "step", "render", "action_masks", "sample_ids"
_METHOD_OPTIONS = """\
      heading_level: 3
      show_root_full_path: false
      show_symbol_type_heading: false
      show_symbol_type_toc: false"""


@dataclass
class Family:
    """Environments of one class and learner.

    Attributes:
        title: Title of the page.
        task: What an action chooses, in a sentence.
        specs: The registered environments.
    """

    title: str
    task: str
    specs: list[EnvSpec] = field(default_factory=list)

    @property
    def page(self) -> str:
        """The page's place among those of the site."""
        return f"environments/{self.title.lower()}.md"

    @property
    def picture(self) -> str:
        """The picture's place."""
        return f"environments/{self.title.lower()}.png"

    @property
    def env_class(self) -> type:
        """The class of the environments."""
        module, _, name = str(self.specs[0].entry_point).partition(":")
        env_class: type = getattr(importlib.import_module(module), name)
        return env_class

    @property
    def is_live(self) -> bool:
        """Whether a language model is trained in the episodes."""
        return self.title == "Live"


def families() -> list[Family]:
    """Return the families of all registered ids."""
    found = {
        "Selection": Family("Selection", "Choose samples one by one from slates."),
        "Mixture": Family("Mixture", "Choose the cluster of the next batch."),
        "Live": Family("Live", "Choose samples; a language model is trained on them."),
    }
    for name, spec in gymnasium.registry.items():
        if name.startswith("OGS-"):
            mixture = str(spec.entry_point).endswith(":MixtureEnv")
            live = spec.kwargs.get("learner") == "live"
            found["Mixture" if mixture else "Live" if live else "Selection"].specs += [
                spec
            ]
    return list(found.values())


def frame(family: Family) -> bytes:
    """Return a frame in the middle of an episode of random valid actions, as PNG."""
    env = _example(family, render_mode="rgb_array")
    env.action_space.seed(0)
    _, info = env.reset(seed=0)
    ended = False
    while not ended and len(env.unwrapped.picked) < len(info["selection"]) / 2:
        action = env.action_space.sample(info["action_mask"])
        _, _, ended, _, info = env.step(action)
    file = io.BytesIO()
    Image.fromarray(np.asarray(env.render())).save(file, "png")
    env.close()
    return file.getvalue()


def figure(family: Family, place: str) -> str:
    """Return Markdown of a family's frame, which is at `place`, and its caption."""
    text = f"`{family.specs[0].id}` after half of an episode of random valid actions"
    if family.is_live:
        text += ', here with `learner="surrogate"`'
    return f"![A frame in the middle of an episode]({place})\n\n*{text}.*"


def cards() -> str:
    """Return Markdown of all families: pictures, and links to their pages."""
    return "\n\n".join(
        f"""<div class="card" markdown>
[![A frame of {family.title}]({family.picture})]({family.page})

**[{family.title}]({family.page})**<br>{family.task}
</div>"""
        for family in families()
    )


def page(family: Family) -> str:
    """Return the Markdown of a family's page."""
    sections = list(_sections(family))
    return "\n\n".join([f"# {family.title}", *sections]) + "\n"


def _sections(family: Family) -> Iterator[str]:
    documented = _documented(family.env_class)
    arguments, _, example = documented["Arguments"].partition("\n```")
    documented["Arguments"] = arguments
    first = documented.pop("")
    yield family.task if family.is_live else first
    yield figure(family, posixpath.basename(family.picture))
    yield _facts(family)
    if family.is_live:
        yield f"## Description\n\n{documented['The Live Learner']}"
        yield (
            "## Observation, Rewards and Information\n\nThey are those of "
            "[Selection](selection.md#observation-space), with the differences above."
        )
        yield f"## Arguments\n\n{arguments}"
        yield f"## Version History\n\n{documented['Version History']}"
        yield "## Reference Returns\n\nNone: each episode trains a language model."
        return
    for title in ("Version History", "References"):
        documented[title] = documented.pop(title)
    for title, text in documented.items():
        if title == "Version History":
            yield f"## Example\n\n```{example}"
            yield _returns(family)
            yield _methods(family)
        yield f"## {title}\n\n{text}"


def _documented(env_class: type) -> dict[str, str]:
    """Return the sections of a class docstring by title; "" is its first line."""
    text = _with_whole_rows(typeset(inspect.getdoc(env_class) or ""))
    # The lexer of sessions knows prompts, which are then left out of copies.
    text = text.replace("```python\n>>>", "```pycon\n>>>")
    first, *rest = re.split(r"^## (.+)\n+", text, flags=re.MULTILINE)
    titles, texts = rest[::2], rest[1::2]
    return {"": first.strip()} | {
        title: text.strip() for title, text in zip(titles, texts, strict=True)
    }


def _with_whole_rows(text: str) -> str:
    """Join rows of tables that go on in a row with an empty first cell."""
    lines: list[str] = []
    for line in text.splitlines():
        if re.match(r"\|\s+\|", line):
            cells = zip(lines.pop().split(" |"), line.split(" |"), strict=True)
            line = " |".join(f"{one.rstrip()} {two.strip(' |')}" for one, two in cells)
        lines.append(line)
    return "\n".join(lines)


def _example(family: Family, **kwargs: Any) -> Any:
    """Make the family's first environment; a live one without its language model."""
    if family.is_live:
        kwargs["learner"] = "surrogate"
    return gymnasium.make(family.specs[0].id, disable_env_checker=True, **kwargs)


def _facts(family: Family) -> str:
    """Return tables of the spaces and the ids."""
    env = _example(family)
    spaces = env.observation_space.spaces.items()
    observation = "<br>".join(f"`{name}`: `{space}`" for name, space in spaces)
    rows = [
        ("Action space", f"`{env.action_space}`"),
        ("Observation space", observation),
        ("Import", f'`import ogs_env; gymnasium.make("{family.specs[0].id}")`'),
    ]
    env.close()
    facts = "\n".join(f"| {name} | {value} |" for name, value in rows)
    ids = "\n".join(f"| `{spec.id}` | {_given(spec)} |" for spec in family.specs)
    return (
        f"| | |\n|---|---|\n{facts}\n\n"
        f"| id | arguments that it sets |\n|---|---|\n{ids}"
    )


def _given(spec: EnvSpec) -> str:
    given = {name: value for name, value in spec.kwargs.items() if value != ""}
    if not given:
        return "none; `bundle` is to be given"
    return ", ".join(f"`{name}={value!r}`" for name, value in given.items())


def _returns(family: Family) -> str:
    """Return the table of committed returns."""
    title = "## Reference Returns\n\n"
    ids = {spec.id for spec in family.specs}
    measured = {one: name for one, name in benchmark.domains().items() if name in ids}
    if not measured:
        return f"{title}The [benchmark](../benchmark.md) does not include these ids."
    head = " | ".join(f"`{name}`" for name in measured.values())
    lines = [f"| | {head} |", "|---|" + "---|" * len(measured)]
    for selector, text in _REFERENCES.items():
        cells = " | ".join(benchmark.returned(one, selector) for one in measured)
        lines.append(f"| {text} | {cells} |")
    lines.insert(0, _RETURNS)
    return title + "\n".join(lines)


def _methods(family: Family) -> str:
    """Return mkdocstrings' directives of the public methods."""
    name = f"{family.env_class.__module__}.{family.env_class.__qualname__}"
    return "## Methods\n\n" + "\n\n".join(
        f"::: {name}.{method}\n    options:\n{_METHOD_OPTIONS}" for method in _METHODS
    )
