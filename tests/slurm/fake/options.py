"""Options as GNU's getopt_long reads them: short and long, unique beginnings of long names; what is not known is refused."""

from __future__ import annotations

NO, REQUIRED, OPTIONAL = "", "=", "?"


class Reply(Exception):
    """What a command prints and returns; raised where it can go no further."""

    keeps_state = True

    def __init__(self, status: int, out: str = "", err: str = "") -> None:
        self.status, self.out, self.err = status, out, err


class Table:
    """Options of a command.

    Parameters
    ----------
    words
        ``name``, ``name=`` (with a value) or ``name?`` (it may have one), each with its short letter after a slash, which
        may differ in that: ``jobs?/j=``.
    bad_status
        Exit status for an unknown option.
    in_order
        The first word that is no option ends them (sbatch).
    """

    def __init__(self, command: str, words: str, bad_status: int = 1, in_order: bool = False, hint: bool = True) -> None:
        self.command, self.bad_status, self.in_order, self.hint = command, bad_status, in_order, hint
        self.long: dict[str, str] = {}
        self.short: dict[str, str] = {}
        self.letters: dict[str, str] = {}
        for word in words.split():
            name, _, letter = word.partition("/")
            kind = name[-1] if name[-1] in "=?" else NO
            name = name.rstrip("=?")
            self.long[name] = kind
            if letter:
                self.short[letter[0]] = name
                self.letters[letter[0]] = letter[1:] or kind

    def _refuse(self, text: str) -> Reply:
        hint = f'Try "{self.command} --help" for more information\n' if self.hint else ""
        return Reply(self.bad_status, err=f"{self.command}: {text}\n{hint}")

    def _full_name(self, word: str, shown: str) -> str:
        if word in self.long:
            return word
        names = [name for name in self.long if name.startswith(word)]
        if not names:
            raise self._refuse(f"unrecognized option '{shown}'")
        if len(names) > 1:
            possible = " ".join(f"'--{name}'" for name in names)
            raise self._refuse(f"option '{shown}' is ambiguous; possibilities: {possible}")
        return names[0]

    def parse(self, argv: list[str]) -> tuple[list[tuple[str, str]], list[str]]:
        """(name, value) of each option in their order, and the other words."""
        found, rest = [], []
        words = list(argv)
        while words:
            word = words.pop(0)
            if word == "--":
                rest += words
                break
            if word.startswith("--"):
                name, equals, value = word[2:].partition("=")
                name = self._full_name(name, word)
                kind = self.long[name]
                if equals and kind == NO:
                    raise self._refuse(f"option '--{name}' doesn't allow an argument")
                if not equals and kind == REQUIRED:
                    if not words:
                        raise self._refuse(f"option '--{name}' requires an argument")
                    value = words.pop(0)
                found.append((name, value))
            elif word.startswith("-") and word != "-":
                found += self._letters(word[1:], words)
            elif self.in_order:
                rest = [word, *words]
                break
            else:
                rest.append(word)
        return found, rest

    def _letters(self, letters: str, words: list[str]) -> list[tuple[str, str]]:
        found = []
        while letters:
            letter, letters = letters[0], letters[1:]
            if letter not in self.short:
                raise self._refuse(f"invalid option -- '{letter}'")
            name = self.short[letter]
            kind = self.letters[letter]
            if kind == NO:
                found.append((name, ""))
                continue
            if not letters and kind == REQUIRED:
                if not words:
                    raise self._refuse(f"option requires an argument -- '{letter}'")
                letters = words.pop(0)
            found.append((name, letters))
            letters = ""
        return found
