import pytest

from ogs_env.bundle import load_bundle, shipped_bundles
from ogs_env.cli import main


def test_every_shipped_bundle_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["domains"]) == 0
    parts = capsys.readouterr().out.strip().split("\n\n")
    assert [part.split(":")[0] for part in parts] == shipped_bundles()
    for part in parts:
        bundle = load_bundle(part.split(":")[0])
        heading, *rest = part.splitlines()
        assert f"OGS-{bundle.name.title()}-v0" in heading.split(": ")[1].split(", ")
        shown = {line.split()[0]: line for line in rest}
        assert f"{len(bundle.pool)} pool, {len(bundle.dev)} dev" in shown["samples"]
        for capability in bundle.capabilities:
            assert capability in shown["anchor"]
        for source in bundle.manifest["sources"]:
            line = shown[source["name"]]
            assert f"{source['pool']:,}" in line.split()
            assert source["licence"] in line
            assert line.endswith(source["url"])
        if "fidelity" in bundle.manifest:
            value = bundle.manifest["fidelity"]["domain_spearman"]
            assert f"domain {value:.2f} [" in shown["fidelity"]
        else:
            assert "not measured" in shown["fidelity"]
