"""Constraints on the fields of records: marks in `Annotated` types, which the reader of typed JSON checks.

Imports no third-party package, so that every type of the kernel can carry them.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema

_ANY, _NO_DOT = r"[^/\\\x00-\x1f]", r"[^./\\\x00-\x1f]"  # a character of a part of a key
PART_PATTERN = rf"(?:{_NO_DOT}{_ANY}*|\.{_NO_DOT}{_ANY}*|\.\.{_ANY}+)"  # anything but "." and ".."
SHA256_PATTERN = "[0-9a-fA-F]{64}"
KEY_PATTERN = rf"{PART_PATTERN}(?:/{PART_PATTERN})*"
KEY_EXPECTED = "parts joined by single '/', no '.', '..' or control characters"


@dataclass(frozen=True, kw_only=True)
class Constraint:
    """What a text or a number must be, and how messages say it."""

    expected: str
    pattern: str = ""  # regular expression for the whole text
    at_least: int | None = None  # for whole numbers

    def __get_pydantic_core_schema__(self, source: object, handler: "GetCoreSchemaHandler") -> "CoreSchema":
        from pydantic_core import core_schema  # late: this file imports no third-party package

        schema: CoreSchema = handler(source)
        if self.pattern:
            schema = core_schema.str_schema(pattern=f"^(?:{self.pattern})$")
        elif self.at_least is not None:
            schema = core_schema.int_schema(ge=self.at_least)
        return core_schema.custom_error_schema(schema, "expected", custom_error_message=self.expected)


Key = Annotated[str, Constraint(pattern=KEY_PATTERN, expected=KEY_EXPECTED)]  # safe as a relative path on every store
Size = Annotated[int, Constraint(at_least=0, expected="a whole number of at least 0")]
Sha256 = Annotated[str, Constraint(pattern=SHA256_PATTERN, expected="a SHA-256 of 64 digits")]
