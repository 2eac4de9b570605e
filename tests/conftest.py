"""For all tests: one thread each, no kill point from outside, and in CI no skip for want of a program."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Generator

import pytest
import support

from pwact_like.crashpoints import KILL_AT_VARIABLE

# before anything imports numpy or torch (nothing above does): the workers must not fight for the cores, and results must not depend on them
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

# a shell that runs the tests in the background has SIGINT ignored, nohup has SIGHUP, and so would every master that a test sends one
if threading.current_thread() is threading.main_thread():
    for _signum, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(_signum) is signal.SIG_IGN:
            signal.signal(_signum, _handler)


# What takes a minute or more, or holds what does: begun first, so that no worker is left alone with it at the end.
_LONG = (
    "test_examples.py::",
    "test_example_cp2k.py::",
    "TestReal::test_scontrol_requeue",
    "TestReal::test_time_limit",
    "test_silicon",
    "test_run_deepmd.py::",
    "test_init_bulk_cp2k.py::",
    "test_commands_rewind.py::",
    "test_trainers_mace.py::",
    "test_example_qe.py::",
    "test_example_chgnet.py::",
    "test_run_md_batch.py::",
    "test_trainers_deepmd_pytorch.py::",
    "test_random_faults.py::",
    "test_rewind_slurm.py::",
    "test_campaign_killed.py::",
    "test_kpu_killed.py::",
    "test_run_edited.py::",
    "test_edits.py::",
    "test_masters.py::",
    "test_campaign_killed_slurm.py::",
    "/workflow/",
    "test_labelers_cut_off.py::",
    "test_potentials_kalman_training.py::",
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put what takes long first."""
    places = {item: next((place for place, part in enumerate(_LONG) if part in item.nodeid), len(_LONG)) for item in items}
    items.sort(key=places.__getitem__)


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip for want of a program or a package into a failure, in CI."""
    if not (report.skipped and support.in_ci() and isinstance(report.longrepr, tuple)):
        return
    path, line, reason = report.longrepr
    reason = reason.removeprefix("Skipped: ")
    if any(words in reason for words in support.INSTALL_WORDS):
        report.outcome = "failed"
        report.longrepr = f"{path}:{line}: {reason} (in CI every program must be there)"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """See `_refuse_skip`; an expected failure (xfail) is left alone."""
    report = yield
    if not hasattr(report, "wasxfail"):
        _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a whole module that skips itself."""
    report = yield
    _refuse_skip(report)
    return report


@pytest.fixture(autouse=True)
def _no_kill_point(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill point of the caller's shell must not end the tests."""
    monkeypatch.delenv(KILL_AT_VARIABLE, raising=False)


@pytest.fixture
def require_program():
    """`support.require_program` as a fixture."""
    return support.require_program
