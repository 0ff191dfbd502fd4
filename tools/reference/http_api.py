"""The page of the HTTP API, from the OpenAPI document."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from receiver.core.errors import REASONS
from receiver.web.problem import STATUS, status_of
from tools.reference.markdown import code, codes, table

Json = Mapping[str, Any]

SHARED = (
    "auth.token_refused",
    "body.invalid_query",
    "body.no_such_route",
    "ledger.corrupt",
    "ledger.crowded",
    "ledger.overloaded",
    "ledger.stopping",
    "ledger.unavailable",
)
"""Reasons that are stated once for all routes."""

EXTENDED = {"JobWithHistory": "Job", "Transition": "Event"}
"""Schemas that have all members of another one, which is shown only once."""


def page(document: Json) -> str:
    """Return the page."""
    operations = [
        (f"{method.upper()} {path}", operation, item.get("parameters", []))
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method != "parameters"
    ]
    overview = (
        (f"[`{route}`](#{anchor(route)})", "no" if "security" in operation else "yes", operation["summary"])
        for route, operation, _ in operations
    )
    parts = [table(("route", "token", "summary"), overview)]
    stated = {reason for _, operation, _ in operations for reason in _reasons(operation)}
    everywhere = ((str(status_of(reason)), code(reason), REASONS[reason]) for reason in _everywhere(stated))
    parts += ["## Answers of any route", table(("status", "reason", "when"), everywhere)]
    parts.append("## Routes")
    for route, operation, shared in operations:
        parts += _operation(document, route, operation, shared)
    parts += ["## Schemas", "All members are always there, unless they are called optional."]
    for name, schema in document["components"]["schemas"].items():
        if name != "Reason":
            parts += _schema(document, name, schema)
    return "\n\n".join(parts)


def anchor(heading: str) -> str:
    """Return the anchor that forges give a heading."""
    kept = "".join(letter for letter in heading.lower() if letter.isalnum() or letter in " -_")
    return kept.replace(" ", "-")


def _everywhere(stated: set[str]) -> list[str]:
    """The reasons that are no route's own, by status."""
    return sorted({*SHARED, *(STATUS.keys() - stated)}, key=lambda reason: (status_of(reason), reason))


def _reasons(operation: Json) -> list[str]:
    """The reasons of an operation: the sentence of each stands in the description of its answer."""
    texts = [answer["description"] for answer in operation["responses"].values()]
    return [reason for reason, sentence in REASONS.items() if any(sentence in text for text in texts)]


def _operation(document: Json, route: str, operation: Json, shared: Sequence[Json]) -> Iterator[str]:
    yield f"### `{route}`"
    yield " ".join(text for text in (operation["summary"], operation.get("description")) if text)
    schemes = document["components"]["securitySchemes"]
    proof = [schemes[name] for needed in operation.get("security", ()) for name in needed]
    parameters = [_resolved(document, parameter) for parameter in (*shared, *operation.get("parameters", []))]
    if proof or parameters:
        yield table(
            ("parameter", "in", "value", "meaning"),
            (
                (
                    code(parameter["name"]),
                    parameter["in"],
                    _value(parameter.get("schema", {"type": "string"})),
                    parameter.get("description", ""),
                )
                for parameter in (*proof, *parameters)
            ),
        )
    if "requestBody" in operation:
        kind, content = next(iter(operation["requestBody"]["content"].items()))
        form = "" if kind == "application/json" else f", as {code(kind)}"
        yield f"Body: {_value(content['schema'])}{form}."
    yield table(("status", "answer", "body"), _answers(operation))


def _answers(operation: Json) -> Iterator[Sequence[str]]:
    for status, answer in sorted(operation["responses"].items()):
        text = answer["description"]
        reasons = [reason for reason in REASONS if REASONS[reason] in text]
        if reasons:
            own = [reason for reason in reasons if reason not in SHARED]
            text = " ".join(f"{code(reason)}: {REASONS[reason]}" for reason in own)
        if not text:
            continue
        headers = [name for name in answer.get("headers", {}) if name != "Retry-After"]
        if headers:
            text += f" With {codes(headers)}."
        bodies = [
            _value(content["schema"]) if "$ref" in content.get("schema", {}) else code(kind)
            for kind, content in answer.get("content", {}).items()
        ]
        yield status, text, ", ".join(bodies)


def _schema(document: Json, name: str, schema: Json) -> Iterator[str]:
    yield f"### {name}"
    if "description" in schema:
        yield schema["description"]
    known: Json = {}
    if name in EXTENDED:
        known = document["components"]["schemas"][EXTENDED[name]]["properties"]
        yield f"All members of [{EXTENDED[name]}](#{anchor(EXTENDED[name])}), and:"
    for variant in schema.get("anyOf", [schema]):
        if "title" in variant:
            yield variant["title"]
        rows = list(_members(variant, known=known))
        yield table(("member", "value", "meaning"), rows) if rows else f"{_value(variant)}."


def _members(schema: Json, prefix: str = "", known: Collection[str] = ()) -> Iterator[Sequence[str]]:
    """The members of an object, and below each those of its own."""
    for name, value in schema.get("properties", {}).items():
        if name in known:
            continue
        optional = "" if name in schema.get("required", ()) else "; optional"
        yield code(prefix + name), _value(value) + optional, value.get("description", "")
        yield from _members(value, f"{prefix}{name}.")
        items = value.get("items", {})
        for variant in items.get("anyOf", [items]):
            yield from _members(variant, f"{prefix}{name}[].")


def _value(schema: Json) -> str:
    """What a value may be, in words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return "[reason](reasons.md)" if name == "Reason" else f"[{name}](#{name.lower()})"
    for variants in ("oneOf", "anyOf"):
        if variants in schema and "properties" not in schema:
            return " or ".join(map(_value, schema[variants]))
    if "const" in schema:
        return code(schema["const"])
    if "enum" in schema:
        return codes(schema["enum"])
    kinds = schema.get("type", "any value")
    return " or ".join(_kind(kind, schema) for kind in ([kinds] if isinstance(kinds, str) else kinds))


def _kind(kind: str, schema: Json) -> str:
    match kind:
        case "string" if schema.get("format") == "date-time":
            return "time"
        case "string" if "pattern" in schema:
            return f"string ({code(schema['pattern'])})"
        case "array":
            return f"list of {_value(schema.get('items', {}))}"
        case "object" if "additionalProperties" in schema and "properties" not in schema:
            keys = _value(schema["propertyNames"]) if "propertyNames" in schema else "name"
            return f"object, {keys} to {_value(schema['additionalProperties'])}"
        case "integer" | "number":
            return kind + _span(schema)
    return kind


def _span(schema: Json) -> str:
    span = ""
    if "maximum" in schema:
        span = f"{schema.get('minimum', 0)} to {schema['maximum']}"
    elif "minimum" in schema:
        span = f"at least {schema['minimum']}"
    if "default" in schema:
        span += f"; default {schema['default']}"
    return f" ({span})" if span else ""


def _resolved(document: Json, parameter: Json) -> Json:
    if "$ref" not in parameter:
        return parameter
    found: Json = document["components"]["parameters"][parameter["$ref"].rpartition("/")[2]]
    return found
