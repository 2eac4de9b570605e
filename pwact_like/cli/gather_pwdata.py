"""Collect the labelled data of every iteration of a campaign.

    pwact-like gather_pwdata -i WORK_DIR
    pwact-like gather_pwdata -i WORK_DIR --merge --out-format deepmd/npy

WORK_DIR/iter.NNNN/02.label/result is copied to WORK_DIR/final_pwdata/iter.NNNN, and final_pwdata/final_pwdata_list.txt
lists what to train on, one quoted path and a comma a line, as it goes into init_data of a param.json. Frames that
were set aside for testing are copied too, into test, and are not listed. With --merge all training frames go into one
data set, WORK_DIR/final_pwdata/{train.xyz | PWdata}.
Running it again replaces final_pwdata.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path

from pwact_like.errors import DataError, InputError, Problem
from pwact_like.fsio import is_finished, write_text

_FOLDER = "final_pwdata"
_LIST = "final_pwdata_list.txt"
_DATA_NAMES = ("train.xyz", "PWdata")
_TEST = "test"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("-i", "--input", type=Path, default=Path(), metavar="DIR", help="the campaign's folder (default: here)")
    parser.add_argument("-m", "--merge", action="store_true", help="one data set of all iterations instead of one each")
    parser.add_argument(
        "--out-format", choices=("extxyz", "pwmlff/npy", "deepmd/npy"), default=None, help="convert to this format (default: as they are)"
    )


def _results(root: Path) -> tuple[dict[str, Path], list[str]]:
    """Result folder of each iteration that has one, and the names of unfinished iterations."""
    if not root.is_dir():
        raise InputError(Problem(str(root), "there is no such folder"))
    ours = (root / ".pwact_like").is_dir()  # PWact's own campaigns have no manifests
    found: dict[str, Path] = {}
    unfinished = []
    for iteration in sorted(root.glob("iter.[0-9]*")):
        result = iteration / "02.label" / "result"
        if result.is_dir() and (is_finished(result) or not ours):
            found[iteration.name] = result
        elif (iteration / "02.label").is_dir():
            unfinished.append(iteration.name)
    if not found:
        raise InputError(
            Problem(str(root), "no iteration with finished labels in it (iter.NNNN/02.label/result)", "is it the campaign's folder?")
        )
    return found, unfinished


def _training_data(result: Path) -> list[Path]:
    return [result / name for name in _DATA_NAMES if (result / name).exists()]


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy2(source, target)


def _gather(results: dict[str, Path], target: Path, out_format: str | None) -> list[tuple[str, int]]:
    """Copy or convert every iteration below ``target``; returns (path relative to it, frames) of training data."""
    from pwact_like.data.formats import iter_frames, read_frames, write_frames

    listed = []
    for name, result in results.items():
        for data in _training_data(result):
            if out_format is None:
                place = f"{name}/{data.name}"
                _copy(data, target / place)
                listed.append((place, sum(1 for _ in iter_frames(data))))
            else:
                frames = read_frames(data)
                place = f"{name}/{'train.xyz' if out_format == 'extxyz' else 'PWdata'}"
                write_frames(target / place, frames, out_format)
                listed.append((place, len(frames)))
    return listed


def _merge(results: dict[str, Path], target: Path, out_format: str | None) -> list[tuple[str, int]]:
    from pwact_like.data.formats import read_frames, write_frames

    sources = [data for result in results.values() for data in _training_data(result)]
    frames = [frame for data in sources for frame in read_frames(data)]
    if not frames:
        return []
    chosen = out_format or ("extxyz" if all(data.suffix == ".xyz" for data in sources) else "pwmlff/npy")
    place = "train.xyz" if chosen == "extxyz" else "PWdata"
    write_frames(target / place, frames, chosen)
    return [(place, len(frames))]


def run(args: argparse.Namespace) -> int:
    """Build the new folder beside the old one, then swap them."""
    root = args.input.resolve()
    results, unfinished = _results(root)
    final = root / _FOLDER
    if final.exists() and not (final / _LIST).exists():
        raise InputError(Problem(str(final), f"exists, but {_LIST} does not: it was not made by this command", "move it away"))
    building = root / f".{_FOLDER}.{os.getpid()}.tmp"
    old = root / f".{_FOLDER}.{os.getpid()}.old"
    try:
        building.mkdir()
        listed = (_merge if args.merge else _gather)(results, building, args.out_format)
        tests = [name for name, result in results.items() if (result / _TEST).is_dir()]
        for name in tests:
            _copy(results[name] / _TEST, building / name / _TEST)
        if not listed:
            raise DataError(f"{root}: the iterations have no training data yet ({', '.join(results)})")
        write_text(building / _LIST, "".join(f"{json.dumps(str(final / place), ensure_ascii=False)},\n" for place, _ in listed))
        if final.exists():
            final.rename(old)
        building.rename(final)
    finally:
        shutil.rmtree(building, ignore_errors=True)
        if old.exists():
            if not final.exists():
                old.rename(final)
            shutil.rmtree(old, ignore_errors=True)
    for place, frames in listed:
        print(f"{final / place}: {frames} frames")
    if tests:
        print(f"test frames, never to be trained on: {', '.join(f'{final.name}/{name}/{_TEST}' for name in tests)}")
    if unfinished:
        print(f"left out, not finished: {', '.join(unfinished)}")
    print(f"{final / _LIST}: {len(listed)} data sets, {sum(frames for _, frames in listed)} frames")
    return 0
