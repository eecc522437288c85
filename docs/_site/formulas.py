"""Typeset formulas without scripts: of docstrings as HTML, of pages as MathML."""

import html
import re

from latex2mathml.converter import convert

# Code, or a paragraph that is indented by four after an empty line.
_APART = re.compile(r"(```.*?```|`[^`]+`|(?<=\n\n)(?: {4}\S[^\n]*\n?)+)", re.DOTALL)
_SYMBOLS = {"eta": "η", "lambda": "λ", "pi": "π", "sum_": "∑_"}
_SYMBOL = re.compile(r"\b(?:(?:eta|lambda|pi)(?![^\W_])|sum_)")
_SUBSCRIPT = re.compile(r"(?<![\w&])(Orth|Conf|IFD|∑|[^\W\d_])_(\w+)")
_INTERVAL = re.compile(r"(\[[-+]?[\d.]+, [-+]?[\d.]+\])(?!</span>)")
_RANGE = re.compile(r"(?<![\w.])([-+]?\d+\.\d+ to [-+]?\d+\.\d+)(?!</span>)")
_SHORT_CODE = re.compile(r"<code>([^\s<]{1,24})</code>")
_OPTION = re.compile(r"(?:(?<= )|(?<=<code>))(--[a-z][\w-]*)(?=[^<>]*</code>)")
_TEX = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def typeset(text: str) -> str:
    """Return the Markdown of a docstring with its plain formulas as HTML.

    Subscripts (`g_i`), powers (`u^T`), inner products (`<g, h>`), Greek letters and
    comparisons are typeset; indented paragraphs become formulas on lines of their own.
    Code is left as it is.
    """
    parts = _APART.split(text)
    parts[::2] = map(_typeset, parts[::2])
    parts[1::2] = [
        part if part.startswith("`") else _displayed(part) for part in parts[1::2]
    ]
    return "".join(parts)


def _displayed(block: str) -> str:
    lines = (_typeset(line.strip()) for line in block.strip().splitlines())
    return f'<p class="formula">{"<br>".join(lines)}</p>\n'


def _typeset(text: str) -> str:
    text = re.sub(r"<([^<>\n]+,\s[^<>\n]+)>", r"⟨\1⟩", text)
    text = text.replace(">=", "≥").replace("<=", "≤").replace("<", "&lt;")
    text = _SYMBOL.sub(lambda name: _SYMBOLS[name[0]], text)

    def subscript(match: re.Match[str]) -> str:
        name, index = match.groups()
        return f"{f'<i>{name}</i>' if len(name) == 1 else name}<sub>{index}</sub>"

    text = _SUBSCRIPT.sub(subscript, text)
    return re.sub(r"\^(-?\w+)", r"<sup>\1</sup>", text)


def with_mathml(page: str) -> str:
    """Return the HTML of a page with its LaTeX formulas as MathML."""

    def mathml(match: re.Match[str]) -> str:
        kind, tex = match.groups()
        display = "block" if kind == "div" else "inline"
        typeset = convert(html.unescape(tex), display=display)
        return f'<div class="formula">{typeset}</div>' if kind == "div" else typeset

    return _TEX.sub(mathml, page)


def with_whole_words(page: str) -> str:
    """Return the HTML of a page with no breaks in intervals, options and short code."""
    page = _SHORT_CODE.sub(r'<code class="whole">\1</code>', page)
    for part in (_INTERVAL, _RANGE, _OPTION):
        page = part.sub(r'<span class="whole">\1</span>', page)
    return page
