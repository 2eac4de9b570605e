"""LAMMPS input scripts as LAMMPS reads them: whole commands with their words, and the numbers in their variables.

https://docs.lammps.org/Commands_parse.html
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pwact_like.errors import InputError, Problem

_TRIPLE = '"""'
_VARIABLE = re.compile(r"\$\{(\w+)\}|\$(\w)")
_OPERATORS: dict[type, Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}


@dataclass(frozen=True)
class Word:
    """One argument: as it stands in the script (``raw``, quotes included), and without its quotes."""

    raw: str
    text: str


@dataclass(frozen=True)
class Command:
    """One whole command: the number of its first line (from 1) and its words; never empty."""

    line: int
    words: tuple[Word, ...]

    @property
    def name(self) -> str:
        """The first word."""
        return self.words[0].text

    @property
    def arguments(self) -> tuple[str, ...]:
        """The other words, without quotes."""
        return tuple(word.text for word in self.words[1:])

    @property
    def text(self) -> str:
        """The command in one line."""
        return " ".join(word.raw for word in self.words)

    def branches(self) -> list[tuple[int, Command]]:
        """The commands inside an ``if``, each with the place of its word; empty for other commands."""
        if self.name != "if":
            return []
        found = []
        for place, word in enumerate(self.words[2:], start=2):
            before = self.words[place - 1].text
            if word.text in ("then", "else", "elif") or before == "elif":
                continue
            words = split_words(word.text)
            if words:
                found.append((place, Command(self.line, tuple(words))))
        return found

    def with_word(self, place: int, raw: str) -> Command:
        """The same with another word at a place."""
        words = list(self.words)
        words[place] = Word(raw, raw.strip("\"'"))
        return Command(self.line, tuple(words))


def parse_script(text: str, where: str) -> list[Command]:
    """All commands of a script: lines joined at ``&`` and inside triple quotes, comments dropped.

    Raises
    ------
    InputError
        For a quote that is never closed.
    """
    commands = []
    problems = []
    for number, line in _joined(text):
        try:
            words = split_words(line)
        except ValueError as error:
            problems.append(Problem(f"{where}: line {number}", str(error), "close the quote"))
            continue
        if words:
            commands.append(Command(number, tuple(words)))
    if problems:
        raise InputError(problems)
    return commands


def _joined(text: str) -> Iterator[tuple[int, str]]:
    """Whole commands with the number of their first line."""
    begin, kept = 0, ""
    for number, line in enumerate(text.splitlines(), start=1):
        begin = begin or number
        kept += line
        if kept.rstrip().endswith("&"):
            kept = kept.rstrip()[:-1]
        elif kept.count(_TRIPLE) % 2:
            kept += "\n"
        else:
            yield begin, kept
            begin, kept = 0, ""
    if kept:
        yield begin, kept


def split_words(line: str) -> list[Word]:
    """Words of a command; a ``#`` outside quotes ends it.

    Raises
    ------
    ValueError
        For a quote that is never closed.
    """
    words = []
    place = 0
    while place < len(line):
        character = line[place]
        if character.isspace():
            place += 1
        elif character == "#":
            break
        elif character in "\"'":
            mark = _TRIPLE if line.startswith(_TRIPLE, place) else character
            end = line.find(mark, place + len(mark))
            if end < 0:
                raise ValueError(f"a quote ({mark}) is never closed")
            words.append(Word(line[place : end + len(mark)], line[place + len(mark) : end]))
            place = end + len(mark)
        else:
            end = place
            depth = 0
            while end < len(line) and (depth or not (line[end].isspace() or line[end] == "#")):
                depth += (line[end] in "({") - (line[end] in ")}") if depth or line[end - 1 : end] == "$" else 0
                end += 1
            words.append(Word(line[place:end], line[place:end]))
            place = end
    return words


class Variables:
    """The script's variables, as far as they are numbers or text."""

    def __init__(self, given: Sequence[Sequence[str]] = ()) -> None:
        """With (name, value, …) of those that the command sets: a variable of style index has its first value."""
        self._values: dict[str, str] = {name: values[0] for name, *values in given}

    def define(self, arguments: Sequence[str]) -> None:
        """Take a command ``variable NAME STYLE VALUE…``; of index and loop variables the first definition holds, as in LAMMPS."""
        if len(arguments) < 3:
            return
        name, style, *values = arguments
        if style in ("equal", "string", "internal") or (style in ("index", "loop") and name not in self._values):
            self._values[name] = values[0] if style != "equal" else "".join(values)

    def expand(self, text: str) -> str:
        """Replace ``${NAME}``, ``$x`` and ``v_NAME``; what is unknown stays."""
        for _ in range(20):  # a variable may be made of others
            new = _VARIABLE.sub(lambda found: self._values.get(found.group(1) or found.group(2), found.group(0)), text)
            new = re.sub(
                r"\bv_(\w+)", lambda found: f"({self._values[found.group(1)]})" if found.group(1) in self._values else found[0], new
            )
            if new == text:
                break
            text = new
        return text

    def number(self, text: str) -> float | None:
        """Value of a number or an arithmetic expression; None when it cannot be told."""
        expanded = self.expand(text)
        immediate = re.fullmatch(r"\$\((.*)\)", expanded)
        expanded = (immediate.group(1) if immediate else expanded).replace("^", "**")
        try:
            return _value(ast.parse(expanded.strip(), mode="eval").body)
        except (SyntaxError, ValueError, ZeroDivisionError, OverflowError):
            return None


def _value(node: ast.expr) -> float:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return float(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return float(_OPERATORS[type(node.op)](_value(node.left), _value(node.right)))
    raise ValueError
