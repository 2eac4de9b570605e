"""The real Slurm of the tests: one for all of them (for each pytest-xdist worker one), left clean by each.

Where slurmctld is not installed these tests are skipped; in CI they fail.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import cluster_accounting
import pytest
import support
from cluster import INSTALL, Cluster
from cluster_accounting import AccountingCluster
from cluster_config import cgroup_problem

_PROGRAMS = ("slurmctld", "slurmd", "sbatch")


def _require(programs: tuple[str, ...], install_line: str) -> None:
    # where Debian has daemons; only root's PATH names it
    missing = {"/usr/sbin", "/sbin"} - set(os.environ["PATH"].split(os.pathsep))
    os.environ["PATH"] = os.pathsep.join([os.environ["PATH"], *sorted(missing)])
    for program in programs:
        support.require_program(program, install_line)
    if os.geteuid() == 0:
        support.require_program("munged", INSTALL)


def _each_test(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    cluster.install(monkeypatch)
    yield cluster
    cluster.repair()


@pytest.fixture(scope="session")
def real_cluster() -> Iterator[Cluster]:
    """Started by the first test that wants it."""
    _require(_PROGRAMS, INSTALL)
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(real_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The real Slurm, installed for this test; afterwards all jobs are cancelled, and what was killed is started again."""
    yield from _each_test(real_cluster, monkeypatch)


@pytest.fixture(scope="session")
def real_accounting_cluster() -> Iterator[AccountingCluster]:
    """A second one, with slurmdbd."""
    _require(_PROGRAMS, INSTALL)
    _require(cluster_accounting.PROGRAMS, cluster_accounting.INSTALL)
    with AccountingCluster() as cluster:
        yield cluster


@pytest.fixture
def accounting_cluster(real_accounting_cluster: AccountingCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[AccountingCluster]:
    """The one with accounting, without limits at first."""
    yield from _each_test(real_accounting_cluster, monkeypatch)


@pytest.fixture
def cgroup_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """One whose jobs end OUT_OF_MEMORY, by the kernel; for this test alone, and skipped where no cgroups can be made."""
    _require(_PROGRAMS, INSTALL)
    if problem := cgroup_problem():
        pytest.skip(problem)
    with Cluster(cgroup=True) as cluster:
        cluster.install(monkeypatch)
        yield cluster
