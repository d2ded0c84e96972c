"""Errors of input are said in words: the field that is wrong and the rule it breaks, as one would say it to whoever sent it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from pydantic_core import ErrorDetails

LOOKS_AT: Final = 200
MOST: Final = 20
"""Errors that are told at once, of those that are looked at: a body may hold as many as it has room for."""

PATTERNS: Final[Mapping[str, str]] = {
    r"^[A-Za-z0-9][A-Za-z0-9._:@-]*$": "must be letters, digits and . _ : @ - without blanks, and begin with a letter or digit",
    r"^[A-Za-z0-9][A-Za-z0-9._@-]*$": "must be letters, digits and . _ @ - without blanks, and begin with a letter or digit",
    r"^[A-Za-z0-9._:@-]*$": "must be letters, digits and . _ : @ - without blanks",
    r"^[A-Za-z0-9][A-Za-z0-9._-]*$": "must be letters, digits and . _ - without blanks, and begin with a letter or digit",
    r"^[^\x00-\x08\x0b-\x1f\x7f-\x9f]*$": "must hold no control characters but tabs and line feeds",
    r"^[a-z]{2}(-[A-Z]{2})?$": "must be a language, or a language and a country, as en or en-GB",
    r"^[A-Z]{2}$": "must be a country's two capital letters, as DE",
    "^(as_available|complete_only|max_n_shipments)$": "must be one of as_available, complete_only, max_n_shipments",
    r'^"[0-9]{1,18}"$': 'must be the ETag of an answer, quotes included, as "3"',
    r"\S": "must not be blank",
    r"^\+[1-9][0-9]{5,14}$": "must be a telephone number with its country and no blanks, as +4930123456",
    r"^(agent|supervisor):[^\x00-\x1f\x7f]+$": "must name a person as tokens do: agent:ann or supervisor:bob",
    r"^[a-z]+:[A-Za-z0-9][A-Za-z0-9 ._:@-]*$": "must be a kind and a name with a colon between them",
    r"^[\x21-\x7e]+$": "must be printable ASCII characters without blanks",
}
"""What a pattern asks for. A pattern that is missing here is found by a test over all that the services document."""

Context = Mapping[str, Any]


def _entries(count: int) -> str:
    return "1 entry" if count == 1 else f"{count} entries"


def _characters(count: int) -> str:
    return "1 character" if count == 1 else f"{count} characters"


def _too_short(ctx: Context) -> str:
    return "must not be empty" if ctx["min_length"] == 1 else f"must have at least {_characters(ctx['min_length'])}"


def _value(ctx: Context) -> str:
    return str(ctx.get("error", "is not valid")).removeprefix("Value error, ")


def _email(ctx: Context) -> str:
    return f"must be an e-mail address: {str(ctx['reason']).rstrip('.')}"


def _says(text: str) -> Callable[[Context], str]:
    return lambda _: text


def _choice(name: str) -> Callable[[Context], str]:
    return lambda ctx: f"must be one of {str(ctx[name]).replace(' or ', ', ').replace(chr(39), '')}"


_NUMBER: Final = _says("must be a whole number")
_INSTANT: Final = _says("must be an instant with its offset, as 2026-05-04T12:00:00Z")
_DATE: Final = _says("must be a date, as 2026-05-04")
_DURATION: Final = _says("must be a length of time, as P14D or PT8H")
_TRUTH: Final = _says("must be true or false")
_LIST: Final = _says("must be a list")
_OBJECT: Final = _says("must be an object")

RULES: Final[Mapping[str, Callable[[Context], str]]] = {
    "missing": _says("is required"),
    "extra_forbidden": _says("is not a field of this"),
    "card_number": _says("must not hold a card number"),
    "string_type": _says("must be text"),
    "string_sub_type": _says("must be text"),
    "string_unicode": _says("must be text in valid Unicode"),
    "string_pattern_mismatch": lambda ctx: PATTERNS.get(ctx["pattern"], "is not written as it must be"),
    "string_too_short": _too_short,
    "string_too_long": lambda ctx: f"must have at most {_characters(ctx['max_length'])}",
    "text_too_large": lambda ctx: f"must be at most {ctx['most']} KiB",
    "too_short": lambda ctx: f"must have at least {_entries(ctx['min_length'])}",
    "too_long": lambda ctx: f"must have at most {_entries(ctx['max_length'])}",
    "int_type": _NUMBER,
    "int_parsing": _NUMBER,
    "int_parsing_size": _says("must be a whole number of fewer digits"),
    "int_from_float": _NUMBER,
    "float_type": _says("must be a number"),
    "float_parsing": _says("must be a number"),
    "finite_number": _says("must be a number"),
    "decimal_type": _says("must be a number"),
    "decimal_parsing": _says("must be a number"),
    "decimal_max_digits": lambda ctx: f"must have at most {ctx['max_digits']} digits",
    "decimal_max_places": lambda ctx: f"must have at most {ctx['decimal_places']} digits after the point",
    "multiple_of": lambda ctx: f"must be a multiple of {ctx['multiple_of']}",
    "greater_than": lambda ctx: f"must be more than {ctx['gt']}",
    "greater_than_equal": lambda ctx: f"must be at least {ctx['ge']}",
    "less_than": lambda ctx: f"must be less than {ctx['lt']}",
    "less_than_equal": lambda ctx: f"must be at most {ctx['le']}",
    "bool_type": _TRUTH,
    "bool_parsing": _TRUTH,
    "literal_error": _choice("expected"),
    "enum": _choice("expected"),
    "union_tag_invalid": _choice("expected_tags"),
    "union_tag_not_found": lambda ctx: f"must say its {str(ctx['discriminator']).strip(chr(39))}",
    "datetime_type": _INSTANT,
    "datetime_parsing": _INSTANT,
    "datetime_from_date_parsing": _INSTANT,
    "datetime_object_invalid": _INSTANT,
    "timezone_aware": _INSTANT,
    "timezone_naive": _INSTANT,
    "timezone_offset": _INSTANT,
    "date_type": _DATE,
    "date_parsing": _DATE,
    "date_from_datetime_parsing": _DATE,
    "date_from_datetime_inexact": _DATE,
    "time_type": _says("must be a time of day, as 09:30"),
    "time_parsing": _says("must be a time of day, as 09:30"),
    "time_delta_type": _DURATION,
    "time_delta_parsing": _DURATION,
    "uuid_type": _says("must be a UUID"),
    "uuid_parsing": _says("must be a UUID"),
    "list_type": _LIST,
    "tuple_type": _LIST,
    "set_type": _LIST,
    "frozen_set_type": _LIST,
    "dict_type": _OBJECT,
    "mapping_type": _OBJECT,
    "model_type": _OBJECT,
    "model_attributes_type": _OBJECT,
    "none_required": _says("must be null"),
    "json_invalid": _says("must be JSON"),
    "json_type": _says("must be JSON"),
    "value_error": _value,
    "assertion_error": _value,
}
"""The rule in words by pydantic's type of error."""


def problems_of(
    errors: Sequence[ErrorDetails] | Sequence[Mapping[str, Any]], whole: str = "body"
) -> list[dict[str, str]]:
    """Return each field with the rule it breaks, in words; `whole` names what has no field. A list is not too short for what
    is wrong with its entries."""
    errors = errors[:LOOKS_AT]
    within = {place[:length] for error in errors if (place := tuple(error["loc"])) for length in range(len(place))}
    told = [
        {"field": _field(error["loc"]) or whole, "rule": _rule(error)}
        for error in errors
        if error["type"] != "too_short" or tuple(error["loc"]) not in within
    ]
    return [each for number, each in enumerate(told) if each not in told[:number]][:MOST]


def _field(place: Sequence[Any]) -> str:
    """Return the field as the sender wrote it, without the validators that pydantic names between."""
    parts = [str(part) for part in place if part != "body" and not any(c in str(part) for c in "[(")]
    return ".".join(parts)


def _rule(error: ErrorDetails | Mapping[str, Any]) -> str:
    if error["type"] == "value_error" and "reason" in (ctx := error.get("ctx") or {}):
        return _email(ctx)
    said = RULES.get(error["type"])
    return said(error.get("ctx") or {}) if said is not None else "is not valid"


def in_words(problems: Sequence[Mapping[str, str]]) -> str:
    return "; ".join(f"{each['field']}: {each['rule']}" for each in problems)
