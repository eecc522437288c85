"""Let mkdocstrings find agents/ under its installed name, `ogs_env.agents`."""

from typing import Any

from griffe import Extension, GriffeLoader, Module


class AgentsPackage(Extension):
    """Adds the folder `agents` to the package `ogs_env`."""

    def on_package(self, *, pkg: Module, loader: GriffeLoader, **kwargs: Any) -> None:
        """Load the folder when the package is loaded."""
        if pkg.name == "ogs_env":
            pkg.set_member("agents", loader.load("agents"))
