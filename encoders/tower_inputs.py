"""From item fields to the inputs of an item tower, as ``inputs.toml`` describes them; inside an artifact as ``inputs.json``.

.. code-block:: toml

    output = "vector"                 # which output; may be left out where the model has one

    [[input]]
    name = "numbers"                  # float32 or float64 (B, F): one column a field, in this order
    columns = [
      { field = "price", transform = "log1p", mean = 2.9, std = 1.1, missing = 0.0 },
      { field = "has_image" },
    ]

    [[input]]
    name = "category"                 # int32 or int64 (B, F), or (B,) of one column
    columns = [{ field = "category", vocabulary = "categories.txt", first = 1, unknown = 0 }]

B items, F columns of an input.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from encoders.item import Item, canonical_text
from encoders.item_fields import NUMBERS, hash_fields, number, read_field, require_field
from moontide.errors import Misconfigured

TRANSFORMS: Final = ("none", "log1p")
MAX_ID: Final = 2**31 - 1
#: Stands for a picture of which only its presence counts.
_SOME_IMAGE: Final = b"\x01"


@dataclass(frozen=True, slots=True)
class Column:
    """One number of an input: a field, standardised, or its id in a vocabulary.

    Args:
        field: see `encoders.item_fields`.
        transform: ``none``, or ``log1p``: sign(x) * log(1 + |x|).
        mean, std: subtracted from, then divides, the transformed value.
        missing: the number, after standardising, of an item that has no such value. With a vocabulary the id, and where it
            is left out that of `unknown`.
        vocabulary: file of one text a line, compared in NFC without outer white space; empty: the field is a number.
        first: id of the first line; the next line has the next id.
        unknown: id of a text that is no line.
    """

    field: str
    transform: str = "none"
    mean: float = 0.0
    std: float = 1.0
    missing: float | None = None
    vocabulary: str = ""
    first: int = 1
    unknown: int = 0

    def __post_init__(self) -> None:
        where = f"column {self.field}"
        require_field(self.field, where=where)
        if self.transform not in TRANSFORMS or not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std > 0):
            raise Misconfigured(
                f"{where}: expected a transform of {TRANSFORMS}, a finite mean and a std above 0, "
                f"got {self.transform!r}, {self.mean} and {self.std}"
            )
        if self.missing is not None and not math.isfinite(self.missing):
            raise Misconfigured(f"{where}: expected a finite value for missing, got {self.missing}")
        if self.vocabulary:
            self._check_ids(where)
        elif self.field == "category":
            raise Misconfigured(f"{where}: expected a vocabulary, got none; name a file of one category a line")

    def _check_ids(self, where: str) -> None:
        if self.field in NUMBERS:
            raise Misconfigured(f"{where}: expected a text with a vocabulary, got a number; leave vocabulary out")
        if (self.transform, self.mean, self.std) != ("none", 0.0, 1.0):
            raise Misconfigured(f"{where}: expected a vocabulary or a transform, mean and std, got both")
        ids = (self.first, self.unknown, self.missing or 0)
        if not all(0 <= each <= MAX_ID and float(each).is_integer() for each in ids):
            raise Misconfigured(f"{where}: expected ids from 0 to {MAX_ID}, got first, unknown and missing {ids}")

    def id_of(self, text: str | None, words: Mapping[str, int]) -> int:
        """The id of a text; `words` gives the line of each, from 0."""
        if text is None:
            return self.unknown if self.missing is None else int(self.missing)
        line = words.get(text)
        return self.unknown if line is None else self.first + line

    def standardised(self, value: float | None) -> float:
        """The number of a value, which may be None."""
        if value is None:
            return 0.0 if self.missing is None else self.missing
        if self.transform == "log1p":
            value = math.copysign(math.log1p(abs(value)), value)
        return (value - self.mean) / self.std


@dataclass(frozen=True, slots=True)
class Input:
    """One input of the model, by its name there: F columns, all numbers or all ids."""

    name: str
    columns: tuple[Column, ...]

    def __post_init__(self) -> None:
        if not self.columns or len({bool(column.vocabulary) for column in self.columns}) != 1:
            raise Misconfigured(f"input {self.name}: expected one or more columns, all with a vocabulary or all without one")

    @property
    def ids(self) -> bool:
        """Whether it holds ids of vocabularies."""
        return bool(self.columns[0].vocabulary)


@dataclass(frozen=True)
class TowerInputs:
    """What an item tower reads: a `ContentReader`, and the arrays the model is run on.

    Args:
        inputs: of the model.
        vocabularies: texts, in canonical form, by the name a column gives.
        output: of the model; empty: it has one.

    Raises:
        Misconfigured: no input, one named twice, or a vocabulary that is not there.
    """

    inputs: tuple[Input, ...]
    vocabularies: Mapping[str, tuple[str, ...]]
    output: str = ""

    def __post_init__(self) -> None:
        named = [each.name for each in self.inputs]
        if not named or len(set(named)) != len(named):
            raise Misconfigured(f"inputs: expected one or more [[input]], each name once, got {named}")
        for column in (column for each in self.inputs for column in each.columns):
            if column.vocabulary and column.vocabulary not in self.vocabularies:
                raise Misconfigured(f"column {column.field}: expected the vocabulary {column.vocabulary!r}, got no such file")

    @cached_property
    def fields(self) -> tuple[str, ...]:
        """Every field that is read, sorted."""
        return tuple(sorted({column.field for each in self.inputs for column in each.columns}))

    @property
    def scheme(self) -> tuple[str, ...]:
        """The fields: another tower over the same ones has the same hash."""
        return self.fields

    def hash(self, item: Item, image: bytes | None) -> str:
        """32 hex digits over the values of the fields; the picture's bytes do not count."""
        return hash_fields(item if image is None or item.image else replace(item, image=_SOME_IMAGE), self.fields)

    def lean(self, item: Item) -> Item:
        """The item without its picture's bytes: that there is one is all that can count."""
        return replace(item, image=_SOME_IMAGE) if item.image else item

    def model_key(self, item: Item) -> bytes:
        """The bytes of every input's row."""
        return b"".join(values.tobytes() for values in self.arrays([item]).values())

    def arrays(self, items: Sequence[Item]) -> dict[str, NDArray[Any]]:
        """(B, F) float32 of numbers, or int64 of ids, by the name of the input."""
        return {each.name: self._array(each, items) for each in self.inputs}

    def _array(self, wanted: Input, items: Sequence[Item]) -> NDArray[Any]:
        out = np.zeros((len(items), len(wanted.columns)), np.int64 if wanted.ids else np.float64)
        for at, column in enumerate(wanted.columns):
            values = [read_field(column.field, item) for item in items]
            if column.vocabulary:
                words = self._lines[column.vocabulary]
                # A number never gets here: a column with a vocabulary is of a text.
                out[:, at] = [column.id_of(None if value is None else str(value), words) for value in values]
            else:
                out[:, at] = [column.standardised(number(value)) for value in values]
        largest = np.finfo(np.float32).max
        return out if wanted.ids else np.clip(out, -largest, largest).astype(np.float32)

    @cached_property
    def _lines(self) -> dict[str, dict[str, int]]:
        return {name: {word: line for line, word in enumerate(words)} for name, words in self.vocabularies.items()}


def read_vocabulary(data: bytes, name: str) -> tuple[str, ...]:
    """The texts of a vocabulary file, one a line, in canonical form.

    Raises:
        Misconfigured: no UTF-8, an empty line, or two that are the same text.
    """
    try:
        lines = data.decode("utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise Misconfigured(f"vocabulary {name}: expected UTF-8, got other bytes ({error.reason})") from error
    words: dict[str, int] = {}
    for at, line in enumerate(lines):
        word = canonical_text(line)
        if not word or word in words:
            found = "an empty one" if not word else f"{word[:80]!r}, which is line {words[word] + 1} as well"
            raise Misconfigured(f"vocabulary {name}: line {at + 1}: expected a text of its own, got {found}")
        words[word] = at
    return tuple(words)
