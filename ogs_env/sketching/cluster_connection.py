"""Connect to a Ray cluster, or start one that ends with the command."""

import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ogs_env.errors import InputError
from ogs_env.sketching.cluster_errors import last_line

CONNECT_SECONDS = 5
# Ray sends no statistics, and does not look for another cluster when one is lost.
_VARIABLES = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_AUTO_CONNECT": "0"}


@contextlib.contextmanager
def connection(address: str | None) -> Iterator[None]:
    """Connect to a Ray cluster, and to nothing else; end what is started here.

    Args:
        address: `HOST:PORT` or `ray://HOST:PORT`. None is the cluster of `RAY_ADDRESS`,
            else the one that runs on this machine, else a new one that ends here. A
            process that is connected already stays so.

    Raises:
        InputError: If Ray is not installed, or the address does not answer.
    """
    for name, value in _VARIABLES.items():
        os.environ.setdefault(name, value)
    _check_installed()
    import ray

    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or _running_cluster()
    with contextlib.ExitStack() as stack:
        # Ray prints there, at length, that a worker ended.
        nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
        stack.enter_context(contextlib.redirect_stdout(nowhere))
        how: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address is None:
            how |= stack.enter_context(_new_cluster())
        else:
            _check_reachable(address)
        before = signal.getsignal(signal.SIGTERM)
        stack.callback(ray.shutdown)
        _init(address, **how)
        if threading.current_thread() is threading.main_thread():
            # Ray's own handler prints a trace and ends without cleaning up.
            signal.signal(signal.SIGTERM, _end)
            stack.callback(signal.signal, signal.SIGTERM, before)
        yield


def _check_installed() -> None:
    try:
        import grpc  # noqa: F401 (of ray[client])
        import ray  # noqa: F401
    except ModuleNotFoundError as error:
        raise InputError(
            f"--ray: the package {error.name} is not installed; run `pip install "
            "'ogs-env[ray]'`"
        ) from None


def _init(address: str | None, **how: Any) -> None:
    """Call `ray.init`; None is a new cluster."""
    import ray

    try:
        ray.init(address=address or "local", **how)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(
            f"--ray: no connection to {address or 'a new cluster'} "
            f"({last_line(error)}); expected HOST:PORT or ray://HOST:PORT of a "
            "running cluster with the versions of Ray and Python that are used here, "
            "and its token (RAY_AUTH_MODE, RAY_AUTH_TOKEN) if it has one"
        ) from None


def _end(number: int, _: object) -> None:
    sys.exit(128 + number)


@contextlib.contextmanager
def _new_cluster() -> Iterator[dict[str, Any]]:
    """Yield what `ray.init` needs to start a cluster."""
    # Otherwise Ray writes one into the home folder.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    # A new cluster's logs and sockets go with it.
    with tempfile.TemporaryDirectory(
        prefix="ogs-ray-", dir=_ray_folder(), ignore_cleanup_errors=True
    ) as folder:
        yield {"include_dashboard": False, "_temp_dir": folder}


def _ray_folder() -> str:
    """Return the folder that Ray makes its own in; those of sockets need short names.

    Raises:
        InputError: If it does not exist.
    """
    folder = os.environ.get("RAY_TMPDIR", "/tmp")
    if not Path(folder).is_dir():
        raise InputError(f"RAY_TMPDIR: {folder} is no folder; make it")
    return folder


def _running_cluster() -> str | None:
    """Return the address of the cluster that `ray start` started on this machine.

    `ray.init(address="auto")` would also join one that another command started for
    itself, and lose it when that command ends.
    """
    file = Path(_ray_folder(), "ray", "ray_current_cluster")
    # A cluster that was killed leaves the file.
    with contextlib.suppress(OSError, InputError):
        address = file.read_text(encoding="utf-8").strip()
        _check_reachable(address)
        return address
    return None


def _check_reachable(address: str) -> None:
    """Check that a service of Ray's kind answers; Ray itself tries for two minutes."""
    import grpc

    place = address.removeprefix("ray://")
    host, _, port = place.rpartition(":")
    if not (host and port.isdecimal() and int(port) < 2**16):
        raise InputError(
            f"--ray: is {address!r}; expected HOST:PORT, ray://HOST:PORT or nothing"
        )
    try:
        with socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS):
            pass
        # With RAY_USE_TLS the service answers only to certificates.
        if os.environ.get("RAY_USE_TLS", "0") == "0":
            with grpc.insecure_channel(place) as channel:
                grpc.channel_ready_future(channel).result(CONNECT_SECONDS)
    except (OSError, grpc.FutureTimeoutError) as error:
        reason = last_line(error) or "no Ray cluster answers there"
        raise InputError(
            f"--ray: {address} cannot be reached ({reason}); expected the address of a "
            "running cluster, as `ray start --head` prints it"
        ) from None
