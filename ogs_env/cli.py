"""The command line `ogs`, which runs the module of the given subcommand."""

import contextlib
import difflib
import importlib
import io
import logging
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from typing import TextIO

from ogs_env.data.reading import ReadWarning
from ogs_env.errors import InputError
from ogs_env.options import parse

# Each module has a dataclass Options and run(options); it is imported only when its
# command is called, so that `ogs --help` needs no torch.
COMMANDS = {
    "adapt": ("ogs_env.experiments.adapt", "all steps, from your files to a model"),
    "domains": ("ogs_env.data.listing", "list domains, sources, sizes, licences"),
    "sketch": ("ogs_env.sketching.command", "texts -> a bundle of gradient sketches"),
    "train": ("ogs_env.experiments.train", "train an agent in an environment"),
    "sweep": ("ogs_env.experiments.sweep", "train with many settings, and compare"),
    "select": ("ogs_env.agents.command", "let an agent choose samples from a bundle"),
    "finetune": (
        "ogs_env.experiments.finetune_command",
        "fine-tune a model on selections",
    ),
    "study": (
        "ogs_env.experiments.study.command",
        "fine-tune by many methods on new pools, and compare",
    ),
    "fidelity": (
        "ogs_env.experiments.fidelity.command",
        "compare what the environment predicts with real fine-tuning",
    ),
    "push": ("ogs_env.agents.push", "upload an agent or a bundle to the hub"),
    "benchmark": ("ogs_env.experiments.benchmark.command", "compare all selectors"),
    "speed": ("ogs_env.experiments.speed", "measure speed and memory, in ratios"),
    "demo": ("ogs_env.experiments.demo", "all steps, end to end, on real input"),
}
_EXTRAS = {
    "torch": "llm",
    "transformers": "llm",
    "peft": "llm",
    "datasets": "llm",
    "pyarrow": "llm",
    "filelock": "llm",
    "huggingface_hub": "hub",
    "tqdm": "llm",
    "simple_icd_10_cm": "texts",
    "reasoning_gym": "texts",
    "stable_baselines3": "rl",
    "sb3_contrib": "rl",
    "yaml": "rl",
    "wandb": "wandb",
    "tensorboard": "wandb",
    "optuna": "sweeps",
    "torchjd": "surgery",
    "ray": "ray",
    "trl": "trl",
    "matplotlib": "plots",
    "scipy": "plots",
    "plotly": "plots",
    "itables": "plots",
    "pandas": "plots",
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command line; return the exit status.

    Returns:
        0 for success, 2 for bad input or a file or output that cannot be read or
        written (with one line on stderr), 130 when interrupted, and 141 when the
        reader of the output, such as `head`, has ended.
    """
    words = sys.argv[1:] if arguments is None else arguments
    _prepare_streams()
    try:
        status = _command(words)
        sys.stdout.flush()
    except BrokenPipeError:
        status = 128 + signal.SIGPIPE
    except OSError as error:
        if error.errno is None:  # not of the system
            raise
        status = _fail(f"{error.filename or 'the output'}: {error.strerror}")
    finally:
        for stream in (sys.stdout, sys.stderr):
            # Otherwise Python writes again when it ends, and prints a traceback.
            if not _is_written(stream):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return status


def _prepare_streams() -> None:
    """Make sure that the standard streams are open and take every text."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        # A closed stream's number would be that of the next file, into which libraries
        # would write their messages.
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _is_written(stream: TextIO) -> bool:
    """Return whether what was printed so far can be written."""
    try:
        stream.flush()
    except OSError:
        return False
    return True


def _command(words: list[str]) -> int:
    """Run a command line; return the exit status."""
    for word in words:
        # Bytes of a file's name that are no text are surrogates in Python.
        if any(sign == "\0" or "\ud800" <= sign <= "\udfff" for sign in word):
            return _fail(
                f"{word!r}: is no text in {sys.getfilesystemencoding()}; rename the "
                "file, or set the locale, as in LC_ALL=C.UTF-8"
            )
    if not words or words[0] in ("-h", "--help"):
        _print_help()
        return 0 if words else 2
    if words[0] == "--version":
        from importlib.metadata import version

        print(f"ogs_env {version('ogs-env')}")
        return 0
    command = words[0]
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else "see `ogs --help`"
        return _fail(f"unknown command '{command}'; {hint}")
    try:
        return _run(command, words[1:])
    except SystemExit as end:
        if end.code:
            raise
        return 0  # after --help
    except InputError as error:
        return _fail(str(error))
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").split(".")[0])
        if extra is None:
            raise
        return _fail(
            f"the package {error.name} is not installed; run `pip install "
            f"'ogs-env[{extra}]'`"
        )
    except KeyboardInterrupt:
        _print_error(
            f"\nogs {command}: interrupted; run the same command again to resume"
        )
        return 130


def _run(command: str, words: list[str]) -> int:
    # torch reads both when it starts. Threads that wait for work would otherwise spin
    # and slow down the working ones.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    module_name, summary = COMMANDS[command]
    with warnings.catch_warnings(), _shown(logging.getLogger("ogs_env")):
        warnings.showwarning = _show_warning
        # Such warnings of libraries are for developers, not for users of a command.
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("always", ReadWarning)
        module = importlib.import_module(module_name)
        options = parse(module.Options, words, f"ogs {command}", summary)
        module.run(options)
    return 0


@contextlib.contextmanager
def _shown(log: logging.Logger) -> Iterator[None]:
    """Print what is logged on stderr."""
    handler, level = logging.StreamHandler(), log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"ogs: note: {message}", file=sys.stderr)


def _fail(message: str) -> int:
    _print_error(f"ogs: error: {' '.join(message.split())}")
    return 2


def _print_error(text: str) -> None:
    with contextlib.suppress(OSError):  # stderr is closed or full
        print(text, file=sys.stderr)


def _print_help() -> None:
    print("usage: ogs COMMAND [OPTIONS]\n\nChoose fine-tuning data by its gradients.\n")
    for name, (_, summary) in COMMANDS.items():
        print(f"  {name:<10} {summary}")
    print("\n`ogs COMMAND --help` lists a command's options.")


if __name__ == "__main__":
    sys.exit(main())
