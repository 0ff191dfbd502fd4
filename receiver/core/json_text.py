"""Reads JSON of strangers."""

import json
from typing import Any

MAX_DEPTH = 500
"""Arrays and objects within each other. What walks or writes a document may then call itself for each."""

_DECODER = json.JSONDecoder()


def loads(text: str | bytes, decoder: json.JSONDecoder = _DECODER) -> Any:
    """Return a JSON document, of bytes in any encoding of JSON.

    Raise ValueError for what is none, or is nested deeper than `MAX_DEPTH`.
    """
    if isinstance(text, bytes):
        text = text.decode(json.detect_encoding(text))
    try:
        document = decoder.decode(text)
    except RecursionError:
        raise ValueError(f"is nested deeper than {MAX_DEPTH} levels") from None
    # To count is quick, and enough for nearly every text.
    if text.count("[") + text.count("{") > MAX_DEPTH and _is_too_deep(document):
        raise ValueError(f"is nested deeper than {MAX_DEPTH} levels")
    return document


def _is_too_deep(document: object) -> bool:
    level = [document]
    for _ in range(MAX_DEPTH + 1):
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return False
    return True
