"""The rules in CEL of a custom kind's definition (`x-kubernetes-validations`), asked as an API
server asks them when an object is created; and the selectors in CEL of a device claim.

Defaults of the schema are filled in first, and a rule's `self` is the value where the rule stands,
with the names of fields escaped that CEL keeps for itself. A rule about a change (`oldSelf`) has
nothing to say at a creation, and Kubernetes' own functions are unknown to the evaluator: `unasked`
says for each rule why it is not asked, so that a test can count them. The evaluator counts bytes in
`size` of a text, where Kubernetes counts characters: the same in ASCII.

Source: Kubernetes, "Extend the Kubernetes API with CustomResourceDefinitions", "Validation rules";
"Dynamic Resource Allocation", "CEL expressions".
"""

import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

import cel
from stoker.deploy.manifest import at
from stoker.deploy.quantity import parse_quantity

from tests.contract.manifests import JsonObject, JsonValue, objects, text

_KNOWN: Final = frozenset(
    {"size", "matches", "startsWith", "endsWith", "contains", "duration", "timestamp"}
    | {"int", "uint", "double", "string", "bytes", "bool", "dyn", "type"}
)
"""CEL's standard functions. Operators do not begin with a letter, and macros are no functions."""
_RESERVED: Final = frozenset(
    {"true", "false", "null", "in", "as", "break", "const", "continue", "else", "for"}
    | {"function", "if", "import", "let", "loop", "package", "namespace", "return"}
)
_SIGNS: Final = {"__": "__underscores__", ".": "__dot__", "-": "__dash__", "/": "__slash__"}


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, and where in the schema it stands: the names of fields, `*` for each element."""

    place: tuple[str, ...]
    expression: str
    message: str


def selects_device(
    selector: str,
    driver: str,
    attributes: Mapping[str, str],
    capacity: Mapping[str, str] | None = None,
) -> bool:
    """Whether a claim's selector takes a device of that driver. Versions are texts `8.6.0`, of
    which this knows `semver`, equality and `major`; amounts are quantities, of which it knows
    `quantity` and `compareTo`."""
    device = {"attributes": {driver: dict(attributes)}, "capacity": {driver: dict(capacity or {})}}
    context = cel.Context({"device": device})
    context.add_function("quantity", lambda amount: amount)
    context.add_function("compareTo", _compared)
    context.add_function("semver", lambda version: version)
    context.add_function("major", lambda version: int(version.partition(".")[0]))
    return cel.compile(selector).execute(context) is True


def _compared(one: str, other: str) -> int:
    """-1, 0 or 1, as two quantities are."""
    amounts = (parse_quantity({"": each}, "") or 0 for each in (one, other))
    left, right = amounts
    return (left > right) - (left < right)


def rules(schema: JsonValue, place: tuple[str, ...] = ()) -> Iterator[Rule]:
    """Every rule of a structural schema, from the outside inwards."""
    yield from (Rule(place, *each) for each in _rules_of(schema))
    for name, inner in _properties(schema).items():
        yield from rules(inner, (*place, name))
    for inner in (at(schema, "items"), at(schema, "additionalProperties")):
        if isinstance(inner, dict):
            yield from rules(inner, (*place, "*"))


@cache
def unasked(expression: str) -> str:
    """Why a rule is not asked; empty for one that is."""
    program = cel.compile(expression)
    if "oldSelf" in program.variables():
        return "about a change"
    unknown = {each for each in program.functions() if each[0].isalpha()} - _KNOWN
    return f"unknown functions: {', '.join(sorted(unknown))}" if unknown else ""


def broken_rules(schema: JsonObject, manifest: JsonObject) -> list[str]:
    """What the rules refuse in a manifest that fits the schema: where, and the rule's message."""
    return list(_broken(schema, with_defaults(schema, manifest), "$"))


def _broken(schema: JsonValue, value: JsonValue, path: str) -> Iterator[str]:
    for expression, message in _rules_of(schema):
        if not unasked(expression):
            answer = cel.compile(expression).execute({"self": escaped(schema, value)})
            if answer is not True:
                yield f"{path}: {message}"
    if isinstance(value, list):
        for index, element in enumerate(value):
            yield from _broken(at(schema, "items"), element, f"{path}[{index}]")
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _broken(_schema_of(schema, name), inner, f"{path}.{name}")


def _rules_of(schema: JsonValue) -> Iterator[tuple[str, str]]:
    """(expression, message) of the rules that stand at the top of a schema."""
    for each in objects(schema, "x-kubernetes-validations"):
        expression = text(each, "rule")
        yield expression, text(each, "message") if "message" in each else expression


def with_defaults(schema: JsonValue, value: JsonValue) -> JsonValue:
    """The value as the API server keeps it: what it leaves out is what the schema says."""
    if isinstance(value, list):
        return [with_defaults(at(schema, "items"), each) for each in value]
    if not isinstance(value, dict):
        return value
    filled = dict(value)
    for name, inner in _properties(schema).items():
        if name not in filled and isinstance(inner, dict) and "default" in inner:
            filled[name] = copy.deepcopy(inner["default"])
    return {name: with_defaults(_schema_of(schema, name), each) for name, each in filled.items()}


def escaped(schema: JsonValue, value: JsonValue) -> JsonValue:
    """The value with its fields' names as rules write them; keys of maps stay as they are."""
    if isinstance(value, list):
        return [escaped(at(schema, "items"), each) for each in value]
    if not isinstance(value, dict):
        return value
    fields = _properties(schema)
    return {
        escaped_name(name) if name in fields else name: escaped(_schema_of(schema, name), each)
        for name, each in value.items()
    }


def escaped_name(name: str) -> str:
    """A field's name in a rule: `namespace` is `__namespace__`, `a-b` is `a__dash__b`."""
    if name in _RESERVED:
        return f"__{name}__"
    return re.sub(r"__|[./-]", lambda found: _SIGNS[found[0]], name)


def _properties(schema: JsonValue) -> JsonObject:
    found = at(schema, "properties")
    return found if isinstance(found, dict) else {}


def _schema_of(schema: JsonValue, name: str) -> JsonValue:
    """The schema of a field, or of a map's value."""
    return _properties(schema).get(name, at(schema, "additionalProperties"))
