"""Run the campaign: `python -m tests.campaign --help`."""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def main() -> int:
    """Run the parts that are asked for; return 1 if one of them failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(_PARTS)}")
    parser.add_argument("--out", type=Path, default=Path("campaign_output"))
    parser.add_argument("--cases", type=int, default=1000, help="damaged files")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--every", type=int, default=1, help="flip every Nth byte")
    parser.add_argument("--seconds", type=float, default=600, help="of the workers")
    options = parser.parse_args()
    unknown = set(options.parts) - set(_PARTS)
    if unknown:
        parser.error(f"unknown part {min(unknown)}; known: {', '.join(_PARTS)}")
    options.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    for name in options.parts or _PARTS:
        begin = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="campaign-") as folder:
            figures = _PARTS[name](options, Path(folder))
        figures["seconds"] = round(time.monotonic() - begin, 1)
        file = options.out / f"{name}.json"
        file.write_text(json.dumps(figures, indent=2) + "\n")
        print(f"{name}: {figures['failed']} failed, {figures['seconds']} s: {file}")
        failed += figures["failed"]
    return 1 if failed else 0


def _mutated(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    from tests.campaign import mutated
    from tests.campaign.inputs import make_inputs

    kept = options.out.resolve() / "mutated"
    return mutated.run(make_inputs(folder / "inputs"), options.cases, kept)


def _flipped(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    from tests.campaign import flipped
    from tests.campaign.inputs import make_inputs

    inputs = make_inputs(folder / "inputs")
    return flipped.run(inputs.folder / "bundle", options.every)


def _killed(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    from tests.campaign import killed
    from tests.campaign.inputs import make_inputs

    return killed.run(make_inputs(folder / "inputs"), options.kills, folder / "runs")


def _workers(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    from tests.campaign import workers

    return workers.run(options.seconds)


_PARTS = {
    "mutated": _mutated,
    "killed": _killed,
    "flipped": _flipped,
    "workers": _workers,
}

if __name__ == "__main__":
    sys.exit(main())
