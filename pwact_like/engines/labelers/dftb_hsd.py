"""DFTB+'s input (dftb_in.hsd) as a tree: read, change, write; values stay as the user wrote them.

``Name = value``, ``Name [unit] = value``, ``Name = Method { … }`` and ``Name { … }``; ``#`` begins a comment; names are compared
without case. Comments and blanks are not kept. Included files (``<<<``, ``<<+``) stay as they are, inside their block.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pwact_like.errors import InputError, Problem

_TOKEN = re.compile(r"\"[^\"]*\"|'[^']*'|#[^\n]*|[{};\n]|=|\[[^\]\n]*\]|<<[<+]|[^\s{};=#\"'\[]+")
_NAME = re.compile(r"[A-Za-z_][\w+\-]*$")


@dataclass
class Node:
    """``name [unit] = method { children }``, or ``name [unit] = value``; raw text of a block has no name.

    Attributes
    ----------
    value
        What stands behind ``=``: a value, or the method's name before the block.
    is_block
        Whether there are braces.
    """

    name: str
    unit: str = ""
    value: str = ""
    is_block: bool = False
    children: list[Node] = field(default_factory=list)
    number: int = 0

    def child(self, name: str) -> Node | None:
        """Its child of that name."""
        return next((node for node in self.children if node.name.lower() == name.lower()), None)

    def text_of(self, name: str) -> str:
        """Value of a child without quotes, "" when it is not there."""
        node = self.child(name)
        return node.value.strip("\"'") if node else ""

    def remove(self, *names: str) -> None:
        """Take out children."""
        lowered = {name.lower() for name in names}
        self.children = [node for node in self.children if node.name.lower() not in lowered]

    def set(self, name: str, value: str) -> None:
        """Give a child one value."""
        self.remove(name)
        self.children.append(Node(name, value=value))

    def block(self, name: str, value: str = "", lines: tuple[str, ...] = ()) -> Node:
        """A new block in the place of one of that name."""
        self.remove(name)
        node = Node(name, value=value, is_block=True, children=[Node("", value=line) for line in lines])
        self.children.append(node)
        return node

    def ensure(self, name: str) -> Node:
        """The block of that name, made where it is missing."""
        return self.child(name) or self.block(name)

    def walk(self) -> Iterator[Node]:
        """Every node below."""
        for node in self.children:
            yield node
            yield from node.walk()

    def normal(self) -> list[Any]:
        """Nested lists that are equal for equal settings: case and the order of named entries count for nothing, that of raw text does."""
        named = sorted((node.normal() for node in self.children if node.name), key=repr)
        raw = [" ".join(node.value.lower().split()) for node in self.children if not node.name]
        return [self.name.lower(), self.unit.lower(), " ".join(self.value.lower().split()), named, raw]

    def lines(self, depth: int = 0) -> list[str]:
        """Its text."""
        blanks = "  " * depth
        if not self.name:
            return [blanks + self.value]
        head = f"{blanks}{self.name}" + (f" {self.unit}" if self.unit else "") + (f" = {self.value}" if self.value else "")
        if not self.is_block:
            return [head]
        inner = [line for node in self.children for line in node.lines(depth + 1)]
        return [f"{head} {{" if self.value else f"{head} = {{", *inner, f"{blanks}}}"]


def parse(text: str, path: Path | str) -> Node:
    """Read an input file.

    Raises
    ------
    InputError
        For braces that do not fit, naming file and line.
    """
    tokens: list[tuple[str, int]] = []
    for match in _TOKEN.finditer(text):
        if not match[0].startswith("#"):
            tokens.append((match[0], text.count("\n", 0, match.start()) + 1))
    root = Node("", is_block=True)
    stack = [root]
    line: list[str] = []
    begun = 0

    def flush() -> None:
        if line:
            stack[-1].children.append(_entry(line, begun))
            line.clear()

    for word, number in tokens:
        if word in ("\n", ";"):
            if line[-1:] != ["="]:  # a value may follow on the next line
                flush()
        elif word == "{":
            if not line:
                raise InputError(Problem(f"{path}: line {number}", "{ without a name before it", "write NAME = { … }"))
            node = _entry(line, begun)
            node.is_block = True
            line.clear()
            stack[-1].children.append(node)
            stack.append(node)
        elif word == "}":
            flush()
            if len(stack) == 1:
                raise InputError(Problem(f"{path}: line {number}", "} closes nothing", "take it out"))
            stack.pop()
        else:
            begun = number if not line else begun
            line.append(word)
    flush()
    if len(stack) > 1:
        opened = stack[-1]
        raise InputError(Problem(f"{path}: line {opened.number}", f"{opened.name} is never closed", "add }"))
    return root


def _entry(words: list[str], number: int) -> Node:
    """A node from the words of a line; a line that is no assignment is raw text (coordinates, k-points, quantum numbers)."""
    unit = words[1] if len(words) > 1 and words[1].startswith("[") else ""
    rest = words[2 if unit else 1 :]
    if _NAME.match(words[0]) and (not rest or rest[0] == "="):
        return Node(words[0], unit, " ".join(rest[1:]), number=number)
    return Node("", value=" ".join(words), number=number)


def read_input_file(path: Path) -> Node:
    """Read and parse an input file.

    Raises
    ------
    InputError
        When it cannot be read, is no text, or its braces do not fit.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(Problem(str(path), f"the DFTB+ input cannot be read: {error.strerror or error}")) from error
    except UnicodeDecodeError as error:
        raise InputError(Problem(str(path), f"not a text file in UTF-8: {error}", "save it as UTF-8")) from error
    return parse(text, path)
