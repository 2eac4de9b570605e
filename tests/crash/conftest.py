"""The Slurms on which masters are killed: the fake one, and the real one of tests/slurm (one of this folder's own)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import campaigns
import pytest
from fake.fake_slurm import FakeSlurm
from slurm.conftest import cluster, real_cluster  # noqa: F401 - fixtures


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSlurm]:
    """A fake Slurm, installed for this test."""
    with FakeSlurm(tmp_path / "slurm") as slurm:
        slurm.install(monkeypatch)
        yield slurm


@pytest.fixture(params=["fake", "real"])
def slurm(request: pytest.FixtureRequest) -> campaigns.Slurm:
    """Each in its turn."""
    return campaigns.Slurm(request.getfixturevalue("fake" if request.param == "fake" else "cluster"))


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Data set and execution counts of the small campaign, on this machine, that nobody disturbs."""
    return campaigns.undisturbed_once(tmp_path_factory, "campaign")


@pytest.fixture(scope="session")
def undisturbed_bulk(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The same of the small init_bulk."""
    return campaigns.undisturbed_once(tmp_path_factory, "init_bulk")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the campaign runs; its name needs quoting."""
    path = tmp_path / "it's a campaign"
    path.mkdir()
    return path
