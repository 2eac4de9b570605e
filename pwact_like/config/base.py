"""What every settings model shares: frozen, strict about names, tolerant about PWact's short forms."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field


class Settings(BaseModel):
    """A frozen group of settings; its fields, their descriptions and defaults are also the manual (see ``document``).

    Class attributes
    ----------------
    aliases
        Other spellings of a key in JSON (all lower-case) → the field's name.
    no_effect
        Keys that PWact or MatPL knows and that change nothing here; they are accepted with a note that names them.
    filled_by_loader
        Fields that no JSON key sets: the loader derives them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    aliases: ClassVar[dict[str, str]] = {}
    no_effect: ClassVar[frozenset[str]] = frozenset()
    filled_by_loader: ClassVar[frozenset[str]] = frozenset()


def as_tuple(value: Any) -> Any:
    """One value or a list of them → a tuple; a string counts as one value (PWact splits it into characters)."""
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def refuse_bool(value: Any) -> Any:
    """``true`` is no number: pydantic would take it as 1."""
    if isinstance(value, bool):
        raise ValueError("a number is wanted here, not true or false")
    return value


Int = Annotated[int, BeforeValidator(refuse_bool)]
Float = Annotated[float, BeforeValidator(refuse_bool)]
PositiveInt = Annotated[Int, Field(ge=1)]
NonNegativeInt = Annotated[Int, Field(ge=0)]
PositiveFloat = Annotated[Float, Field(gt=0)]
NonNegativeFloat = Annotated[Float, Field(ge=0)]
Fraction = Annotated[Float, Field(ge=0, le=1)]

Ints = Annotated[tuple[Int, ...], BeforeValidator(as_tuple)]
Indices = Annotated[tuple[NonNegativeInt, ...], BeforeValidator(as_tuple)]
Counts = Annotated[tuple[PositiveInt, ...], BeforeValidator(as_tuple), Field(min_length=1)]
Floats = Annotated[tuple[Float, ...], BeforeValidator(as_tuple)]
PositiveFloats = Annotated[tuple[PositiveFloat, ...], BeforeValidator(as_tuple)]
Strings = Annotated[tuple[str, ...], BeforeValidator(as_tuple)]
Paths = Annotated[tuple[Path, ...], BeforeValidator(as_tuple)]


def job_name_part(value: str) -> str:
    """A name that may stand in a job's name and in a shell line as it is."""
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,40}", value):
        raise ValueError(f"{value!r}: letters, digits, _ . - are allowed here, at most 40: it becomes part of job names")
    return value


CampaignName = Annotated[str, AfterValidator(job_name_part)]
