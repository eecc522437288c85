"""What MkDocs runs to make the pages that are not files in docs/.

Pages of docs/ link to files of the repository as on GitHub. Those outside of docs/ that
a page links to become part of the site, at their path in the repository. Scripts of
examples/ are shown on the page of the examples, and the notebook is a page.
"""

import posixpath
import re
from pathlib import Path

import environment_pages
import notebook_page
import selector_page
from formulas import with_mathml, with_whole_words
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).parents[2]
_NOTEBOOK = "examples/first_steps.ipynb"
# Files with another place on the site than in the repository or in docs/.
_PLACES = {"CHANGELOG.md": "changelog.md", _NOTEBOOK: "first-steps.md"}
_EXAMPLES = "examples.md"
_SCRIPTS = sorted((REPOSITORY / "examples").glob("*.py"))
_CARDS, _FRAME, _SOURCES = "<!-- cards -->", "<!-- frame -->", "<!-- sources -->"
# The target of a link to another file, without its heading.
_TARGET = re.compile(r"(?<=\]\()(?!\w+:)[^)\s#]+")
# A picture without a link.
_PICTURE = re.compile(r'(?<!">)(<img [^>]*src="([^"]+)"[^>]*>)')
_API = {
    "index": "ogs_env",
    "selector": "ogs_env.agents.selector",
    "deployment": "ogs_env.agents.deployment",
    "reading": "ogs_env.data.reading",
    "wrappers": "ogs_env.wrappers",
}
_EVALUATION = """\
# Evaluation

`evaluate` is imported from `ogs_env.agents`. The [benchmark](../benchmark.md) has an
example.

::: ogs_env.agents.evaluation.evaluate

::: ogs_env.agents.evaluation.Evaluation
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and the repository's files that pages link to."""
    for name, content in _generated().items():
        files.append(File.generated(config, name, content=content))
    pages = [
        *_PLACES,
        *(_repository_path(one) for one in files.documentation_pages()),
    ]
    while pages:
        page = pages.pop()
        for path in {page, *_linked(page)}:
            name = _site_path(path)
            if path and not files.get_file_from_path(name):
                source = str(REPOSITORY / path)
                files.append(File.generated(config, name, abs_src_path=source))
                pages += [path] if path.endswith(".md") else []
    return files


def on_page_markdown(
    markdown: str, page: Page, config: MkDocsConfig, files: Files
) -> str:
    """Let links to files of the repository lead to their places on the site."""
    source = _repository_path(page.file)
    if not source:
        return markdown
    if source.startswith("experiments/") and not source.endswith("README.md"):
        page.meta["hide"] = ["toc"]  # room for wide tables
    first = environment_pages.families()[0]
    return (
        _with_places(markdown, source, posixpath.dirname(page.file.src_uri))
        .replace(_CARDS, environment_pages.cards())
        .replace(_FRAME, environment_pages.figure(first, first.picture))
        .replace(_SOURCES, _sources())
    )


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Typeset formulas; let pictures lead to their full size."""
    html = with_whole_words(with_mathml(html))
    return _PICTURE.sub(r'<a href="\2">\1</a>', html)


def _generated() -> dict[str, str | bytes]:
    """Return the contents of pages and pictures that are made here, by place."""
    made: dict[str, str | bytes] = {"selectors.md": selector_page.page()}
    for family in environment_pages.families():
        made[family.page] = environment_pages.page(family)
        made[family.picture] = environment_pages.frame(family)
    for name, module in _API.items():
        made[f"api/{name}.md"] = f"::: {module}\n    options:\n      heading_level: 1\n"
    made["api/evaluation.md"] = _EVALUATION
    place = _PLACES[_NOTEBOOK]
    run = notebook_page.page(REPOSITORY / _NOTEBOOK, place)
    return made | run | {place: _with_places(str(run[place]), _NOTEBOOK, "")}


def _sources() -> str:
    """Return the scripts of examples/, each under its name."""
    return "\n".join(
        f"## {script.name}\n\n```python\n{script.read_text()}```\n"
        for script in _SCRIPTS
    )


def _with_places(markdown: str, source: str, here: str) -> str:
    """Let links to files of the repository lead to their places on the site.

    Args:
        markdown: The text of a page.
        source: Its file in the repository.
        here: The folder of its place on the site.
    """

    def on_site(target: re.Match[str]) -> str:
        path = _resolved(source, target[0])
        if REPOSITORY / path in _SCRIPTS:
            heading = Path(path).name.replace(".", "")
            return f"{posixpath.relpath(_EXAMPLES, here or '.')}#{heading}"
        if not (REPOSITORY / path).is_file():
            return target[0]  # MkDocs says that it is missing
        return posixpath.relpath(_site_path(path), here or ".")

    return _TARGET.sub(on_site, markdown)


def _repository_path(file: File) -> str:
    """Return a page's path in the repository; "" for a generated page."""
    source = file.abs_src_path
    return Path(source).relative_to(REPOSITORY).as_posix() if source else ""


def _site_path(path: str) -> str:
    """Return the place on the site of a file of the repository."""
    return _PLACES.get(path, path.removeprefix("docs/"))


def _linked(page: str) -> list[str]:
    """Return the files of the repository that a page links to."""
    if not page:
        return []
    targets = _TARGET.findall((REPOSITORY / page).read_text())
    paths = [REPOSITORY / _resolved(page, target) for target in targets]
    return [
        path.relative_to(REPOSITORY).as_posix()
        for path in paths
        if path.is_file() and path not in _SCRIPTS
    ]


def _resolved(page: str, target: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), target))
