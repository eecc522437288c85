"""Small sources in the formats of the real ones, with texts of our own."""

import gzip
import itertools
import json
from pathlib import Path

import numpy as np

WORDS = [f"word{number}" for number in range(40)]


def write(path: Path, records: list[dict[str, str]]) -> None:
    """Write JSON lines."""
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))


def pairs(name: str, count: int, **fields: str) -> list[dict[str, str]]:
    """Questions and answers that name their source."""
    return [
        {"prompt": f"{name} {i}?", "response": f"{name} answer {i}", **fields}
        for i in range(count)
    ]


def write_sources(folder: Path, count: int = 140) -> None:
    """Write the files that real domains read, for `OGS_DATA` and `sys.path`."""
    medquad = pairs("medquad", count + 10)
    repeats = [
        {"prompt": f"  MedQuAD {i} ?", "response": f"another answer {i}"}
        for i in range(count + 10)
    ]
    write(folder / "medquad.jsonl", [*medquad, *repeats, *medquad[:20]])
    write(folder / "pubmedqa.jsonl", pairs("pubmedqa", count - 10, decision="maybe"))
    write(folder / "fibo.jsonl", pairs("fibo", count))
    for name in ("gsm8k_train", "gsm8k_test"):
        solved = [
            one | {"response": f"{one['response']}\n#### {number}"}
            for number, one in enumerate(pairs(name, count))
        ]
        write(folder / f"{name}.jsonl", solved)
    # Several questions about one table, several tasks on one clause.
    tables = [
        {"prompt": f"table {i // 2}\n{i}?", "response": str(i)}
        for i in range(2 * count)
    ]
    write(folder / "tatqa.jsonl", tables)
    clauses = [
        {"prompt": f"task {i % 2}\nclause {i // 2}", "response": "Yes"}
        for i in range(2 * count)
    ]
    write(folder / "legalbench.jsonl", clauses)
    write_grammar_pairs(folder, 12)
    write_wordnet(
        folder / "wordnet",
        [([f"Hero {i}"], f"a hero of the tale of number {i}") for i in range(count)],
    )
    rng = np.random.default_rng(0)
    write_licences(
        folder,
        {f"own-{i}": [" ".join(rng.choice(WORDS, 50))] for i in range(2 * count)},
    )


def write_grammar_pairs(folder: Path, count: int) -> None:
    """Write pairs of two paradigms of grammar, `count` of each, as BLiMP's file."""
    records = [
        {
            "paradigm": paradigm,
            "good": f"The {word} {number} sees a {word}.",
            "bad": f"The {word} {number} see a {word}.",
        }
        for paradigm, word in (("agreement", "cat"), ("number", "green hat"))
        for number in range(count)
    ]
    lines = "".join(f"{json.dumps(record)}\n" for record in records)
    (folder / "blimp_pairs.jsonl.gz").write_bytes(gzip.compress(lines.encode()))


def write_wordnet(folder: Path, instances: list[tuple[list[str], str]]) -> None:
    """Write a `data.noun` of names and their glosses, in wndb(5WN)'s format."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["  1 This software and database is licensed  "]
    for number, (names, gloss) in enumerate(instances):
        words = " ".join(f"{name.replace(' ', '_')} 0" for name in names)
        lines.append(
            f"{number:08d} 18 n {len(names):02x} {words} 001 @i 00007846 n 0000 | "
            f"{gloss}  "
        )
    lines.append("00007846 03 n 01 person 0 001 @ 00004475 n 0000 | a human being  ")
    (folder / "data.noun").write_text("\n".join(lines) + "\n")


def write_licences(folder: Path, texts: dict[str, list[str]], **header: str) -> None:
    """Write the package licensedcode's files: a header, then paragraphs."""
    place = folder / "licensedcode" / "data" / "licenses"
    place.mkdir(parents=True, exist_ok=True)
    for key, paragraphs in texts.items():
        lines = [f"{name}: {value}" for name, value in {"key": key, **header}.items()]
        parts = itertools.chain(["---", *lines, "---", ""], ["\n\n".join(paragraphs)])
        (place / f"{key}.LICENSE").write_text("\n".join(parts) + "\n")
