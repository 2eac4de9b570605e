"""``#SBATCH`` lines of a script, read as sbatch reads them."""

from __future__ import annotations

from fake.options import Reply


def directives(script: str, name: str) -> list[str]:
    """Words of all ``#SBATCH`` lines before the first command."""
    words: list[str] = []
    for number, line in enumerate(script.split("\n"), 1):
        if line.startswith("#SBATCH"):
            words += _words(line[len("#SBATCH") :], name, number)
        elif line.strip(" \t") and not line.lstrip(" \t").startswith("#"):
            break
    return words


def _words(line: str, name: str, number: int) -> list[str]:
    """Split as sbatch's get_argument: blanks, both kinds of quotes, a backslash keeps the next letter, # ends the line."""
    words: list[str] = []
    word, begun, quote, escaped = "", False, "", False
    for letter in line:
        if escaped:
            word, escaped = word + letter, False
        elif letter == "\\":
            begun = escaped = True
        elif quote:
            if letter == quote:
                quote = ""
            else:
                word += letter
        elif letter in "\"'":
            begun, quote = True, letter
        elif letter == "#":
            break
        elif letter.isspace():
            if begun:
                words.append(word)
            word, begun = "", False
        else:
            word, begun = word + letter, True
    if quote:
        raise Reply(1, err=f"sbatch: error: {name}: line {number}: Unmatched `{quote}` in [{line}]\nsbatch: fatal: {name}: line {number}\n")
    if begun:
        words.append(word)
    return words


def check_script(script: bytes) -> None:
    """What sbatch refuses without asking the controller."""
    if not script:
        raise Reply(1, err="sbatch: error: Batch script is empty!\n")
    if not script.strip():
        raise Reply(1, err="sbatch: error: Batch script contains only whitespace!\n")
    if not script.startswith(b"#!"):
        raise Reply(
            1,
            err="sbatch: error: This does not look like a batch script.  The first\n"
            "sbatch: error: line must start with #! followed by the path to an interpreter.\n"
            "sbatch: error: For instance: #!/bin/sh\n",
        )
    if b"\0" in script:
        raise Reply(
            1,
            err="sbatch: error: The Slurm controller does not allow scripts that\nsbatch: error: contain a NULL character '\\0'.\n",
        )
    if b"\r\n" in script:
        lines = ("Batch script contains DOS line breaks (\\r\\n)", "instead of expected UNIX line breaks (\\n).")
        raise Reply(1, err="".join(f"sbatch: error: {line}\n" for line in lines))
