"""pw.x's input files as namelists and cards: read, change, write; what is not changed stays as the user wrote it.

Namelists are ``&NAME … /`` with Fortran's ``name = value`` and ``name(i) = value``, cards are a line with the card's name and
the lines below it. ``!`` begins a comment, in cards ``#`` at the beginning of a line too. Names are compared without case.
https://www.quantum-espresso.org/Doc/INPUT_PW.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pwact_like.errors import InputError, Problem

NAMELISTS = ("CONTROL", "SYSTEM", "ELECTRONS", "IONS", "CELL", "FCP", "RISM")
"""In the order in which pw.x wants them."""

CARDS = (
    "ATOMIC_SPECIES",
    "ATOMIC_POSITIONS",
    "K_POINTS",
    "ADDITIONAL_K_POINTS",
    "CELL_PARAMETERS",
    "CONSTRAINTS",
    "OCCUPATIONS",
    "ATOMIC_VELOCITIES",
    "ATOMIC_FORCES",
    "SOLVENTS",
    "HUBBARD",
)
_OPEN = re.compile(r"^\s*&\s*([A-Za-z_]\w*)(.*)$")
_NAME = re.compile(r"([A-Za-z_]\w*)\s*(?:\(([^()]*)\))?\s*=(?!=)\s*")
_STRING = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"")
_FILLER = re.compile(r"(?:[\s,]|![^\n]*)+")
_TOKEN = re.compile(r"[^\s,/!'\"]+")


@dataclass
class Assignment:
    """``name = value`` or ``name(index) = value`` of a namelist.

    Attributes
    ----------
    name, index
        In lower case; the numbers in the brackets, or "".
    value
        As written, quotes included.
    number
        Line in the file, 0 when it is not the user's.
    """

    name: str
    index: str
    value: str
    number: int = 0
    text: str = ""

    @property
    def plain(self) -> str:
        """The value without quotes and outer blanks."""
        found = _STRING.fullmatch(self.value.strip())
        return self.value.strip()[1:-1].strip() if found else self.value.strip()

    @property
    def indices(self) -> tuple[int, ...]:
        """The numbers in the brackets; empty when there are none, or none that can be read."""
        words = [word.strip() for word in self.index.split(",")] if self.index.strip() else []
        return tuple(int(word) for word in words) if all(word.isdigit() for word in words) else ()


@dataclass
class Namelist:
    """A namelist: assignments, and what stands between them."""

    name: str
    header: str = ""
    pieces: list[str | Assignment] = field(default_factory=list)
    footer: str = "/"
    number: int = 0

    @property
    def assignments(self) -> list[Assignment]:
        """In the order of the file."""
        return [piece for piece in self.pieces if isinstance(piece, Assignment)]

    def get(self, name: str) -> Assignment | None:
        """The last assignment to a name (Fortran takes that one), with or without an index."""
        found = [piece for piece in self.assignments if piece.name == name]
        return found[-1] if found else None

    def value(self, name: str) -> str:
        """Value without quotes, "" when it is not given."""
        found = self.get(name)
        return found.plain if found else ""

    def is_true(self, name: str) -> bool:
        """Whether a logical variable is given as true."""
        return self.value(name).lower().lstrip(".").startswith("t")

    def remove(self, *names: str) -> None:
        """Take out every assignment to these names."""
        for assignment in [piece for piece in self.assignments if piece.name in names]:
            self.drop(assignment)

    def drop(self, assignment: Assignment) -> None:
        """Take out one assignment, its comma, and its line when nothing else is in it."""
        place = next(number for number, piece in enumerate(self.pieces) if piece is assignment)
        del self.pieces[place]
        before = self.pieces[place - 1] if place > 0 else None
        after = self.pieces[place] if place < len(self.pieces) else None
        if not isinstance(after, str):
            return
        after = re.sub(r"^[ \t]*,?[ \t]*", "", after, count=1)
        if isinstance(before, str) and re.search(r"\n[ \t]*$", before) and after.startswith("\n"):
            self.pieces[place - 1], after = before.rstrip(" \t"), after[1:]
        self.pieces[place] = after

    def set(self, name: str, value: str) -> None:
        """Give a name one value: its first assignment is replaced, further ones go."""
        found = [piece for piece in self.assignments if piece.name == name]
        for extra in found[1:]:
            self.drop(extra)
        if found:
            found[0].value, found[0].index, found[0].text = value, "", f"{name} = {value}"
            return
        first = self.pieces[0] if self.pieces else ""
        gap = "" if isinstance(first, str) and re.match(r"[ \t]*(\n|!)", first) else "\n "
        self.pieces[:0] = ["\n  ", Assignment(name, "", value, text=f"{name} = {value}"), gap]

    def text(self) -> str:
        """The namelist's text."""
        return self.header + "".join(piece if isinstance(piece, str) else piece.text for piece in self.pieces) + self.footer


@dataclass
class Card:
    """A card: its name, what follows on the line (the option), and the lines below."""

    name: str
    option: str
    header: str
    lines: list[str] = field(default_factory=list)
    number: int = 0

    @property
    def rows(self) -> list[str]:
        """The lines without comments and blanks."""
        bare = (re.split(r"!", line, maxsplit=1)[0].strip() for line in self.lines if not line.lstrip().startswith("#"))
        return [line for line in bare if line]

    def text(self) -> str:
        """The card's text."""
        return "\n".join([self.header, *self.lines])


@dataclass
class PwInput:
    """An input file of pw.x.

    Attributes
    ----------
    head
        What stands before the first namelist (comments).
    namelists
        Name in capitals → namelist.
    cards
        In the order of the file.
    """

    head: list[str] = field(default_factory=list)
    namelists: dict[str, Namelist] = field(default_factory=dict)
    cards: list[Card] = field(default_factory=list)

    def namelist(self, name: str) -> Namelist:
        """A namelist, made where it is missing."""
        return self.namelists.setdefault(name, Namelist(name, f"&{name}", ["\n"]))

    def value(self, namelist: str, name: str) -> str:
        """Value of a variable without quotes, "" when it is not given."""
        found = self.namelists.get(namelist)
        return found.value(name) if found else ""

    def card(self, name: str) -> Card | None:
        """A card by its name."""
        return next((card for card in self.cards if card.name == name), None)

    def remove_cards(self, *names: str) -> None:
        """Take out cards."""
        self.cards = [card for card in self.cards if card.name not in names]

    def add_card(self, name: str, option: str, lines: list[str]) -> None:
        """Append a card, in the place of one of the same name."""
        self.remove_cards(name)
        self.cards.append(Card(name, option, f"{name} {option}".rstrip(), lines))

    def text(self) -> str:
        """The file's text: namelists in pw.x's order, then the cards."""
        known = [self.namelists[name].text() for name in NAMELISTS if name in self.namelists]
        return "\n".join([*self.head, *known, *(card.text() for card in self.cards)]) + "\n"


def _pieces(body: str, first: int, path: Path | str, name: str) -> tuple[list[str | Assignment], str]:
    """Assignments and fillers of a namelist's body, and what was left behind its ``/``."""
    pieces: list[str | Assignment] = []
    at = 0
    while at < len(body):
        number = first + body.count("\n", 0, at)
        filler = _FILLER.match(body, at)
        if filler:
            pieces.append(filler[0])
            at = filler.end()
            continue
        if body[at] == "/" or body[at : at + 4].lower() == "&end":
            return pieces, body[at:]
        found = _NAME.match(body, at)
        if found is None:
            what = body[at:].split("\n", 1)[0].strip()
            raise InputError(Problem(f"{path}: line {number}", f"{what!r} in &{name} is no `name = value`", "mend the line"))
        end = _value_end(body, found.end())
        value = body[found.end() : end].rstrip(" \t,")
        end = found.end() + len(value)
        index = re.sub(r"\s+", "", found[2] or "")
        pieces.append(Assignment(found[1].lower(), index, value, number, body[at:end]))
        at = end
    raise InputError(Problem(f"{path}: line {first}", f"&{name} is never closed", "add a line with / behind its last variable"))


def _value_end(body: str, at: int) -> int:
    """Where a value ends: before the next name, the closing slash, or a comment that only blanks follow."""
    end = at
    while at < len(body):
        if body[at] in " \t\n,":
            at += 1
        elif body[at] == "!":
            at = len(body) if (line_end := body.find("\n", at)) < 0 else line_end
        elif body[at] == "/" or body[at : at + 4].lower() == "&end" or _NAME.match(body, at):
            break
        else:
            found = _STRING.match(body, at) or _TOKEN.match(body, at)
            if found is None:
                break
            at = end = found.end()
    return end


def parse(text: str, path: Path | str) -> PwInput:
    """Read an input file.

    Parameters
    ----------
    text
        Its content.
    path
        For messages.

    Raises
    ------
    InputError
        For a namelist that is not closed, given twice or unknown, a line in one that is no assignment, or text that
        belongs to no card, naming file and line.
    """
    result = PwInput()
    lines = text.splitlines()
    last: Namelist | None = None
    number = 0
    while number < len(lines):
        line = lines[number]
        opened = _OPEN.match(line)
        card = _card_name(line)
        if opened:
            name = opened[1].upper()
            where = f"{path}: line {number + 1}"
            if name not in NAMELISTS:
                raise InputError(Problem(where, f"pw.x has no namelist &{name}", f"it has {', '.join('&' + known for known in NAMELISTS)}"))
            if name in result.namelists:
                raise InputError(Problem(where, f"&{name} is there twice", "join the two"))
            rest = "\n".join([opened[2], *lines[number + 1 :]])
            pieces, behind = _pieces(rest, number + 1, path, name)
            footer = behind.split("\n", 1)[0].rstrip()
            last = result.namelists[name] = Namelist(name, line[: opened.end(1)], pieces, footer, number + 1)
            number += rest[: len(rest) - len(behind)].count("\n") + 1
        elif card:
            header = line.rstrip()
            option = re.split(r"[!#]", line.strip()[len(card) :], maxsplit=1)[0].strip(" \t{}()")
            if result.card(card) is not None:
                raise InputError(Problem(f"{path}: line {number + 1}", f"{card} is there twice", "keep one of them"))
            result.cards.append(Card(card, option, header, [], number + 1))
            number += 1
        else:
            bare = line.strip()
            if result.cards:
                result.cards[-1].lines.append(line.rstrip())
            elif not bare or bare[0] in "!#":
                if last is not None:
                    last.footer += "\n" + line.rstrip()
                else:
                    result.head.append(line.rstrip())
            else:
                raise InputError(Problem(f"{path}: line {number + 1}", f"{bare!r} belongs to no namelist and no card", "take it out"))
            number += 1
    if not result.namelists:
        raise InputError(Problem(str(path), "there is no namelist in it", "a pw.x input begins with &CONTROL"))
    return result


def _card_name(line: str) -> str:
    word = re.split(r"[\s{(]", line.strip(), maxsplit=1)[0].upper()
    return word if word in CARDS else ""


def read_input_file(path: Path) -> PwInput:
    """Read and parse an input file.

    Raises
    ------
    InputError
        When it cannot be read, is no text, or does not parse.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(Problem(str(path), f"the pw.x input cannot be read: {error.strerror or error}")) from error
    except UnicodeDecodeError as error:
        raise InputError(Problem(str(path), f"not a text file in UTF-8: {error}", "save it as UTF-8")) from error
    return parse(text, path)


def all_assignments(root: PwInput) -> Iterator[tuple[str, Assignment]]:
    """(namelist, assignment) of the whole file."""
    for name, namelist in root.namelists.items():
        for assignment in namelist.assignments:
            yield name, assignment
