"""The page of the selectors, made from their docstrings."""

import ast
import functools
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import benchmark
from formulas import typeset

from ogs_env.agents.selector import READERS, SELECTORS

_OPTIONS = """\
      members: false
      show_root_heading: false
      show_root_toc_entry: false"""
_INTRODUCTION = f"""\
# Selectors

A selector chooses samples from a bundle's pool. These {len(SELECTORS)} need no
training. Each name is a choice of `ogs select --agent` and of `ogs adapt --compare`. In
Python:

```python
import numpy as np
import ogs_env
from ogs_env.agents.selector import make_selector

bundle = ogs_env.load_bundle("medical")
selector = make_selector("less")
rows, scores = selector.select(bundle, 48, np.random.default_rng(0))
```

Any object with this method is a selector, see [the protocol](api/selector.md) and
[how to add one](contributing.md#a-new-baseline-selector). A trained agent is one too,
see [Trained agents](api/deployment.md).

Gradients are those of the untouched model, as *initial sketches*, if nothing else is
said; *g*<sub>D</sub> is the domain's. Selectors that read texts need the texts of the
pool.
"""
_RETURNS = """\
Interquartile mean of the return, with 95 % bootstrap intervals, over the same 100
episodes of each domain's test split. The oracle sees the whole stream and the
trajectory sketches, the others one slate at a time, as an agent does. The
[benchmark](benchmark.md) also has agents, and selectors that see the whole stream.
"""


@dataclass(frozen=True)
class _Module:
    """A file of selectors.

    Attributes:
        name: Its name as a module.
        selectors: Its selectors, name and class.
    """

    name: str
    selectors: dict[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return ", ".join(self.selectors)

    @functools.cached_property
    def tree(self) -> ast.Module:
        """The source; modules are not imported, since some need torch."""
        spec = find_spec(self.name)
        if spec is None or spec.origin is None:
            raise ValueError(f"{self.name}: has no file")
        return ast.parse(Path(spec.origin).read_text())

    def class_docstring(self, selector: str) -> str:
        nodes = [one for one in self.tree.body if isinstance(one, ast.ClassDef)]
        (node,) = (one for one in nodes if one.name == self.selectors[selector])
        return ast.get_docstring(node) or ""


def page() -> str:
    """Return the Markdown of the page."""
    modules: dict[str, _Module] = {}
    for name, place in SELECTORS.items():
        module, _, class_name = place.partition(":")
        modules.setdefault(module, _Module(module)).selectors[name] = class_name
    parts = [_INTRODUCTION, _overview(modules.values()), f"## Returns\n\n{_RETURNS}"]
    parts += [_returns(), *map(_section, modules.values())]
    return "\n\n".join(parts) + "\n"


def _overview(modules: Iterable[_Module]) -> str:
    """Return a table of the first lines of the class docstrings."""
    lines = ["| selector | what it does | needs texts |", "|---|---|---|"]
    for module in modules:
        anchor = module.title.replace(", ", "-")
        for name in module.selectors:
            does = module.class_docstring(name).splitlines()[0]
            texts = "yes" if name in READERS else "no"
            lines.append(f"| [`{name}`](#{anchor}) | {does} | {texts} |")
    return "\n".join(lines)


def _returns() -> str:
    """Return the table of committed returns."""
    domains = benchmark.domains()
    head = " | ".join(domain.title() for domain in domains)
    lines = [f"| | {head} |", "|---|" + "---|" * len(domains)]
    for name in SELECTORS:
        cells = " | ".join(benchmark.returned(domain, name) for domain in domains)
        lines.append(f"| `{name}` | {cells} |")
    return "\n".join(lines)


def _section(module: _Module) -> str:
    """Return the section of a module: its docstring, and what its classes take."""
    parts = [f"## {module.title}", typeset(ast.get_docstring(module.tree) or "")]
    for name, class_name in module.selectors.items():
        parts.append(f"Class `{class_name}` of `{module.name}`.")
        if "Args:" in module.class_docstring(name):
            place = f"{module.name}.{class_name}"
            parts.append(f"::: {place}\n    options:\n{_OPTIONS}")
    return "\n\n".join(parts)
