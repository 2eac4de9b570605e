"""Files that are never half there: atomic writes, products with a manifest, a ledger of what is deleted."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pwact_like import __version__
from pwact_like.crashpoints import reach
from pwact_like.errors import DataError, Problem
from pwact_like.seeds import sha256_file

MANIFEST_NAME = "manifest.json"
LEDGER_NAME = "deleted.jsonl"


def fsync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` last a power cut (a no-op on file systems that refuse it)."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass  # some network file systems do not support it on folders
    finally:
        os.close(handle)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically: it has its old content or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # the pid keeps two processes apart, the leading dot keeps globs away
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def write_text(path: Path, content: str) -> None:
    """Write UTF-8 text atomically."""
    write_bytes(path, content.encode())


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, indented, with a newline at the end; NaN is refused (it is not JSON)."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON that pwact_like itself has written.

    Raises
    ------
    DataError
        When the file is missing or is not JSON, naming file and place.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: the file is missing") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not valid JSON: {error}") from error


def write_through(path: Path, writer: Callable[[Path], None]) -> None:
    """Let ``writer`` fill a temporary file beside ``path``, then rename it in (for libraries that want a path)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp{os.getpid()}.{path.name}")  # keeps the suffix: libraries look at it
    try:
        writer(temporary)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def writing_problems(path: Path, option: str, *, folder: bool = False) -> list[Problem]:
    """Look, before hours of work, whether a file (or ``folder``) can be written: folders that are missing are made by whoever writes.

    Returns
    -------
    list of Problem
        Empty when nothing stands in the way; ``option`` names the place for the user.
    """
    if folder:
        if path.exists() and not path.is_dir():
            return [Problem(option, f"{path} is a file, and a folder is wanted", "give another name, or move it away")]
        place = path
    elif not path.name or path.is_dir():
        return [Problem(option, f"{path} is a folder, and a file is to be written", "give the name of a file")]
    else:
        place = path.parent
    while not place.exists() and place.parent != place:
        place = place.parent
    if not place.is_dir():
        return [Problem(option, f"{path} cannot be written: {place} is no folder", "give another place")]
    if not os.access(place, os.W_OK | os.X_OK):
        return [Problem(option, f"{path} cannot be written: there is no permission to write in {place}", "give another place")]
    return []


def safe_join(root: Path, *parts: str) -> Path:
    """Join and insist that the result stays below ``root`` (names come from JSON).

    Raises
    ------
    DataError
        When a part is absolute or climbs out with ``..``.
    """
    path = root.joinpath(*parts)
    if not Path(os.path.normpath(path)).is_relative_to(os.path.normpath(root)):
        raise DataError(f"{'/'.join(parts)}: this name leads out of {root}")
    return path


def wait_for_file(path: Path, timeout_s: float, sleep: Callable[[float], None] = time.sleep) -> bool:
    """Wait until a file shows; listing its folder first makes network file systems look again."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            next(path.parent.iterdir(), None)
        except FileNotFoundError:
            pass
        if path.exists():
            return True
        if time.monotonic() >= deadline:
            return False
        sleep(min(0.5, timeout_s / 10 or 0.1))


def relative_path(path: Path, start: Path) -> str:
    """``path`` as seen from ``start``, with ``..`` where needed: what a campaign writes into its own files."""
    return os.path.relpath(path, start)


def is_finished(folder: Path) -> bool:
    """Whether a product folder is finished: its manifest was renamed in."""
    return (folder / MANIFEST_NAME).is_file()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished product."""
    manifest: dict[str, Any] = read_json(folder / MANIFEST_NAME)
    return manifest


def write_manifest(
    folder: Path,
    kind: str,
    *,
    inputs: Mapping[str, str] | None = None,
    outputs: Iterable[str] = (),
    facts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Finish a product: hash its outputs, then rename the manifest in. A finished product is never rewritten.

    Parameters
    ----------
    folder
        The product's folder.
    kind
        What it is, e.g. ``dataset``, ``selection``.
    inputs
        Name → hash (or key) of what it was made from.
    outputs
        Names of its files, relative to ``folder``; each must exist.
    facts
        Anything else worth keeping that is JSON (counts, seeds, versions of programs).

    Raises
    ------
    DataError
        When the folder is already finished with another content, or an output is missing.
    """
    hashes = {}
    for name in sorted(outputs):
        path = folder / name
        if not path.is_file():
            raise DataError(f"{path}: the output is missing, so {folder} cannot be called finished")
        hashes[name] = sha256_file(path)
    manifest = {
        "kind": kind,
        "inputs": dict(sorted((inputs or {}).items())),
        "outputs": hashes,
        "facts": dict(facts or {}),
        "version": __version__,
    }
    if is_finished(folder):
        present = read_manifest(folder)
        if {**present, "version": ""} != {**manifest, "version": ""}:
            raise DataError(f"{folder}: this product is finished and differs from what would be written; it is never rewritten")
        return present
    write_json(folder / MANIFEST_NAME, manifest)
    reach("manifest-written")
    return manifest


def delete_with_ledger(ledger_folder: Path, paths: Iterable[Path], why: str) -> None:
    """Delete files or folders; what and why goes into the ledger first.

    The paths must lie below ``ledger_folder``.
    """
    doomed = [path for path in paths if path.exists() or path.is_symlink()]
    if not doomed:
        return
    lines = []
    for path in doomed:
        safe_join(ledger_folder, relative_path(path, ledger_folder))
        size = path.stat().st_size if path.is_file() else None
        lines.append(json.dumps({"path": relative_path(path, ledger_folder), "bytes": size, "why": why, "time": time.time()}))
    ledger = ledger_folder / LEDGER_NAME
    with ledger.open("a", encoding="utf-8") as stream:
        stream.write("\n".join(lines) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    for path in doomed:
        reach("cleaning")
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
