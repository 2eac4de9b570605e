"""The launcher: names in any case, messages instead of tracebacks, exit statuses, and the scripts in bin/."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest
from support import ROOT, clean_environment, run_cli

from pwact_like import __version__
from pwact_like.cli import main as launcher
from pwact_like.errors import BudgetExceededError, InputError, LockedError, Problem, StopRequested


@pytest.fixture
def install_command(monkeypatch):
    """Put a command ``probe`` into the launcher, whose body is given."""

    def install(body, configure=lambda parser: None):
        module = types.ModuleType("probe_command", "A command for this test.")
        module.configure = configure
        module.run = body
        monkeypatch.setitem(sys.modules, "probe_command", module)
        monkeypatch.setitem(launcher.COMMANDS, "probe", ("probe_command", "a command for this test"))

    return install


def raises(error):
    """A command body that raises."""

    def body(_):
        raise error

    return body


@pytest.mark.parametrize("spelling", ["probe", "PROBE", "Probe"])
def test_a_command_is_found_in_any_case(install_command, spelling):
    install_command(lambda _: 0)
    assert launcher.main([spelling]) == 0


def test_a_dash_stands_for_an_underscore(monkeypatch, install_command):
    install_command(lambda _: 7)
    monkeypatch.setitem(launcher.COMMANDS, "to_probe", launcher.COMMANDS["probe"])
    assert launcher.main(["to-probe"]) == 7


def test_options_reach_the_command_and_not_the_launcher(install_command):
    seen = []
    install_command(lambda args: seen.append(args.version) or 0, lambda parser: parser.add_argument("--version"))
    assert launcher.main(["probe", "--version", "3"]) == 0
    assert seen == ["3"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InputError(Problem("param.json: train", "is missing")), 2),
        (BudgetExceededError("30 of 40 labels failed"), 3),
        (LockedError("held by another master"), 4),
        (StopRequested(15), 143),
        (KeyboardInterrupt(), 130),
    ],
)
def test_an_error_is_a_message_and_a_status(install_command, capsys, error, status):
    install_command(raises(error))
    assert launcher.main(["probe"]) == status
    text = capsys.readouterr().err
    assert text.startswith("pwact-like probe: ")
    assert "Traceback" not in text


def test_all_problems_are_told_at_once(install_command, capsys):
    install_command(raises(InputError([Problem("a.json: x", "is wrong", "write 1"), Problem("b.json: y", "is missing")])))
    assert launcher.main(["probe"]) == 2
    assert "1. a.json: x: is wrong (write 1)\n2. b.json: y: is missing" in capsys.readouterr().err


def test_a_fault_of_ours_shows_its_traceback_and_the_version(install_command, capsys):
    install_command(raises(ZeroDivisionError("division by zero")))
    assert launcher.main(["probe"]) == 1
    text = capsys.readouterr().err
    assert "Traceback" in text
    assert __version__ in text


def test_a_missing_extra_names_its_installation(install_command, capsys):
    install_command(raises(ModuleNotFoundError("No module named 'tblite'", name="tblite.ase")))
    assert launcher.main(["probe"]) == 2
    assert "pip install 'pwact-like[xtb]'" in capsys.readouterr().err


def test_another_missing_module_is_a_fault(install_command, capsys):
    install_command(raises(ModuleNotFoundError("No module named 'pwact_like.nonesuch'", name="pwact_like.nonesuch")))
    assert launcher.main(["probe"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "status", "word"),
    [(errno.ENOSPC, 1, "full"), (errno.EDQUOT, 1, "quota"), (errno.EACCES, 2, "permissions"), (errno.EIO, 1, "fault")],
)
def test_an_error_of_the_file_system_names_the_file(install_command, capsys, code, status, word):
    install_command(raises(OSError(code, os.strerror(code), "/data/train.xyz")))
    assert launcher.main(["probe"]) == status
    text = capsys.readouterr().err
    assert "/data/train.xyz" in text
    assert word in text


def test_a_real_full_disk_is_a_message(install_command, capsys):
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")

    def body(_):
        with Path("/dev/full").open("wb", buffering=0) as stream:
            stream.write(b"x")
        return 0

    install_command(body)
    assert launcher.main(["probe"]) == 1
    assert "make room" in capsys.readouterr().err


def test_an_unknown_command_names_the_nearest(capsys):
    with pytest.raises(SystemExit) as end:
        launcher.main(["chek"])
    assert end.value.code == 2
    assert "did you mean check?" in capsys.readouterr().err


def test_an_unknown_command_without_a_neighbour_names_all(capsys):
    with pytest.raises(SystemExit) as end:
        launcher.main(["zzzzzz"])
    assert end.value.code == 2
    assert all(name in capsys.readouterr().err for name in ["init_bulk"])


def test_no_command_shows_the_help_and_is_an_error(capsys):
    assert launcher.main([]) == 2
    text = capsys.readouterr().err
    assert all(name in text for name in launcher.COMMANDS)


def test_help_names_every_command_with_its_line(capsys):
    with pytest.raises(SystemExit) as end:
        launcher.main(["-h"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert all(name in text and line in text for name, (_, line) in launcher.COMMANDS.items())


def test_a_closed_pipe_ends_quietly():
    """``pwact-like -h | head -1`` must not print a traceback."""
    code = """
import sys, types
from pwact_like.cli import main

def run(args):
    for number in range(100_000):
        print("line", number)
    return 0

module = types.ModuleType("probe", "A command that prints much.")
module.configure, module.run = (lambda parser: None), run
sys.modules["probe"] = module
main.COMMANDS["probe"] = ("probe", "prints much")
sys.exit(main.main(["probe"]))
"""
    writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=clean_environment())
    writer.stdout.readline()
    writer.stdout.close()
    assert writer.stderr.read() == b""
    assert writer.wait(60) == 0


def test_module_and_version():
    result = run_cli("--version")
    assert (result.returncode, result.stdout) == (0, f"pwact-like {__version__}\n")


@pytest.mark.parametrize("name", ["pwact-like", "pwact"])
def test_the_launcher_works_from_anywhere_through_a_link_and_a_path_with_spaces(tmp_path, name):
    """A copy of the tree under a name with a space, called through a link, in a folder whose files shadow Python's modules."""
    tree = tmp_path / "a tree"
    shutil.copytree(ROOT / "bin", tree / "bin", symlinks=True)
    shutil.copytree(ROOT / "pwact_like", tree / "pwact_like", ignore=shutil.ignore_patterns("__pycache__", "templates"))
    (tree / ".venv" / "bin").mkdir(parents=True)
    (tree / ".venv" / "bin" / "python").symlink_to(sys.executable)
    init = tree / "pwact_like" / "__init__.py"
    init.write_text(init.read_text().replace(__version__, "9.9.9"))
    work = tmp_path / "work"
    work.mkdir()
    for trap in ("argparse.py", "random.py", "pwact_like.py"):
        (work / trap).write_text("raise SystemExit('the wrong module')\n")
    link = tmp_path / "linked launcher"
    link.symlink_to(tree / "bin" / name)
    result = subprocess.run([link, "--version"], cwd=work, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": ""}, timeout=60)
    assert (result.returncode, result.stdout, result.stderr) == (0, "pwact-like 9.9.9\n", "")


def test_the_launcher_without_an_environment_refuses_an_old_python(tmp_path):
    shutil.copytree(ROOT / "bin", tmp_path / "bin", symlinks=True)
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "python3").write_text("#!/bin/sh\nexit 1\n")  # what the version test of the launcher ends with on an old one
    (tools / "python3").chmod(0o755)
    result = subprocess.run(
        [tmp_path / "bin" / "pwact-like", "-h"], capture_output=True, text=True, env={"PATH": f"{tools}:/usr/bin:/bin"}, timeout=60
    )
    assert result.returncode == 2
    assert "needs Python 3.11 or newer" in result.stderr
    assert "bin/setup-env" in result.stderr


def test_setup_without_a_new_enough_python_says_what_it_found(tmp_path):
    shutil.copytree(ROOT / "bin", tmp_path / "bin", symlinks=True)
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    old = tmp_path / "python3.8"
    old.write_text('#!/bin/sh\ncase "$2" in *version_info\\ \\<*) exit 1;; esac\necho 3.8.10\n')
    old.chmod(0o755)
    environment = os.environ | {"PWACT_LIKE_PYTHON": str(old)}
    result = subprocess.run([tmp_path / "bin" / "setup-env"], capture_output=True, text=True, env=environment, timeout=60)
    assert result.returncode == 2
    assert "needs Python 3.11 or newer" in result.stderr
    assert "is 3.8.10" in result.stderr
    assert not (tmp_path / ".venv").exists()


def test_the_test_script_refuses_an_unknown_group():
    result = subprocess.run([ROOT / "bin" / "test", "nonesuch"], capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert "no group nonesuch" in result.stderr
