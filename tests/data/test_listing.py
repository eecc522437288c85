import shutil
from pathlib import Path

import pytest
from helpers.make_bundle import edit_manifest

from ogs_env.bundle import load_bundle, shipped_bundles
from ogs_env.cli import main
from ogs_env.data.listing import lines


def test_every_shipped_bundle_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["domains"]) == 0
    parts = capsys.readouterr().out.strip().split("\n\n")
    assert [part.split(":")[0] for part in parts] == shipped_bundles()
    for part in parts:
        bundle = load_bundle(part.split(":")[0])
        heading, *rest = part.splitlines()
        assert f"OGS-{bundle.name.title()}-v0" in heading.split(": ")[1].split(", ")
        entries = {line.split()[0]: line for line in rest}
        assert f"{len(bundle.pool)} pool, {len(bundle.dev)} dev" in entries["samples"]
        for capability in bundle.capabilities:
            assert capability in entries["anchor"]
        for source in bundle.manifest["sources"]:
            line = entries[source["name"]]
            assert f"{source['pool']:,}" in line.split()
            assert source["licence"] in line
            assert line.endswith(source["url"])
        for recipe in bundle.manifest.get("fidelity", ()):
            assert f"{recipe}: domain " in entries["fidelity"]
        if "fidelity" not in bundle.manifest:
            assert "not measured" in entries["fidelity"]


def test_the_fidelity_is_listed_by_recipe(bundle_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(bundle_folder, tmp_path / "bundle")
    figures = {
        "domain_spearman": 0.914,
        "domain_interval": [0.8, 0.951],
        "forgetting_spearman": 0.85,
        "forgetting_interval": [-0.012, 0.9],
    }
    other = figures | {"forgetting_spearman": 0.1}
    edit_manifest(folder, fidelity={"tenth": figures, "held-out": other})
    line = next(one for one in lines(load_bundle(folder)) if "fidelity" in one)
    assert line == (
        "  fidelity   tenth: domain 0.91 [0.80, 0.95], forgetting 0.85 [-0.01, 0.90]; "
        "held-out: domain 0.91 [0.80, 0.95], forgetting 0.10 [-0.01, 0.90] (Spearman)"
    )
