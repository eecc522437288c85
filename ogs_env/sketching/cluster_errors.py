"""Errors of Ray in one line."""

from ogs_env.errors import InputError


def last_line(error: BaseException) -> str:
    """Return the last line of an error, which names the cause, not too long."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""


def worker_reason(error: Exception) -> str:
    """Say in words that follow "a worker" why it cannot work."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, InputError):
        return str(cause)
    text = str(error)
    if "No module named" in text:
        module = text.rpartition("No module named")[2].split()[0].strip("'\".")
        return (
            f"has no package {module}; install ogs-env[llm,ray] in the Python of "
            "`ray start` on all machines"
        )
    return f"cannot start ({last_line(error)})"
