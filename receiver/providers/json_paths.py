"""Paths into JSON: keys with dots between them, and ``[]`` for each element of a list."""

import re
from collections.abc import Sequence
from typing import Any

EACH = "[]"
MAX_STEPS = 16

_KEY = r"[A-Za-z0-9_$-]+(?:\[\])*"
_PATH = re.compile(rf"{_KEY}(?:\.{_KEY})*")

Path = tuple[str, ...]
"""Its steps: keys and `EACH`."""


def parse(value: Any, *, each: bool = False) -> tuple[Path, ...]:
    """Return the steps of one path, or of several that are alternatives; ``each``: they may hold ``[]``.

    Raises:
        ValueError: one is no path; the message says what it must be.
    """
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError("must be a path such as data.id, or a list of paths")
    found = []
    for text in texts:
        steps = tuple(step for step in re.split(r"(\[\])|\.", text) if step) if _PATH.fullmatch(text) else ()
        if not 0 < len(steps) <= MAX_STEPS:
            raise ValueError(f"must be a path such as data.id, of at most {MAX_STEPS} keys")
        if EACH in steps and not each:
            raise ValueError("must not hold [], because it leads to one value")
        found.append(steps)
    return tuple(found)


def values(document: Any, path: Path) -> list[Any]:
    """Return what stands at a path, without nulls at keys. Work is bounded by the document's size."""
    found = [document]
    for step in path:
        if step == EACH:
            found = [item for value in found if isinstance(value, list) for item in value]
        else:
            inner = (value.get(step) for value in found if isinstance(value, dict))
            found = [value for value in inner if value is not None]
    return found


def find(document: Any, paths: Sequence[Path]) -> list[Any]:
    """Return what stands at the first path at which something stands."""
    return next((found for path in paths if (found := values(document, path))), [])


def value(document: Any, paths: Sequence[Path]) -> Any:
    """Return the one value at the first path that leads to one; ``None`` without."""
    return next(iter(find(document, paths)), None)


def replace(document: Any, path: Path, by: str) -> None:
    """Replace what stands at a path, in the document itself."""
    *way, last = path
    for holder in values(document, tuple(way)):
        if last == EACH and isinstance(holder, list):
            holder[:] = [by] * len(holder)
        elif isinstance(holder, dict) and last in holder:
            holder[last] = by


def put(document: Any, path: Path, value: Any) -> Any:
    """Return a document with the value at a path, beside what it holds; its lists have one element."""
    if not path:
        return value
    step, *further = path
    if step == EACH:
        return [put(document[0] if isinstance(document, list) else None, tuple(further), value)]
    kept = document if isinstance(document, dict) else {}
    return {**kept, step: put(kept.get(step), tuple(further), value)}
