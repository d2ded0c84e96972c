"""Facts invented from their contracts: valid in every field, and about the same few orders, lines and shipments."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta, timezone
from enum import EnumMeta
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from hypothesis import strategies as st
from pydantic import BaseModel, EmailStr
from pydantic.fields import FieldInfo

from shared.contracts import Fact

IDS = st.sampled_from(["a", "b", "c"])
_WORDS = st.sampled_from(["", "late", "two words", "<b>bold</b>", "ünïcode ✓"])
_ID = r"^[A-Za-z0-9][A-Za-z0-9._:@-]*$"
_START = datetime(2026, 1, 1, tzinfo=timezone.utc)
_INSTANTS = st.integers(0, 10_000).map(lambda minutes: _START + timedelta(minutes=minutes))
_BY_PATTERN = {
    r"^[a-z]+:[A-Za-z0-9][A-Za-z0-9 ._:@-]*$": st.just("sku:a"),
    _ID: IDS,
    r"^[a-z]{2}(-[A-Z]{2})?$": st.just("en"),
    r"^[A-Z]{2}$": st.just("DE"),
}


def facts(kind: type[Fact], **fixed: Any) -> st.SearchStrategy[Any]:
    """Facts of one class; `fixed` fields are as given."""
    return _models(kind).map(lambda fact: kind.model_validate(dict(fact) | fixed)) if fixed else _models(kind)


@cache
def _models(kind: type[BaseModel]) -> st.SearchStrategy[Any]:
    fields = {name: _values(info.annotation, info.metadata) for name, info in kind.model_fields.items()}
    return st.fixed_dictionaries(fields).map(lambda values: kind(**values))


def _values(annotation: Any, rules: Sequence[Any]) -> st.SearchStrategy[Any]:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner = [rule for part in parts[1:] for rule in (part.metadata if isinstance(part, FieldInfo) else [part])]
        return _values(parts[0], [*rules, *inner])
    if origin in (Union, UnionType):
        return st.one_of(*[_values(part, rules) for part in parts])
    if origin is Literal:
        return st.sampled_from(parts)
    if origin is tuple:
        least = max((getattr(rule, "min_length", 0) for rule in rules), default=0)
        return st.lists(_values(parts[0], []), min_size=least, max_size=2).map(tuple)
    if origin is dict:
        return st.dictionaries(_values(parts[0], []), _values(parts[1], []), max_size=2)
    if annotation is type(None):
        return st.none()
    return _plain(annotation, rules)


def _plain(kind: Any, rules: Sequence[Any]) -> st.SearchStrategy[Any]:
    if isinstance(kind, EnumMeta):
        return st.sampled_from(list(kind))
    if kind is EmailStr:
        return st.just("ada@example.com")
    if issubclass(kind, BaseModel):
        return _models(kind)
    if kind is bool:
        return st.booleans()
    if kind is int:
        low = next((rule.ge for rule in rules if hasattr(rule, "ge")), None)
        above = next((rule.gt for rule in rules if hasattr(rule, "gt")), None)
        most = next((rule.le for rule in rules if hasattr(rule, "le")), 100)
        return st.integers(1 if above == 0 else low if low is not None else -5, min(most, 100))
    if kind is datetime:
        return _INSTANTS
    if kind is timedelta:
        return st.integers(0, 10_000).map(lambda minutes: timedelta(minutes=minutes))
    if kind is date:
        return _INSTANTS.map(lambda at: at.date())
    if kind is str:
        return _texts(rules)
    raise TypeError(f"no values are invented for {kind}")


def _texts(rules: Sequence[Any]) -> st.SearchStrategy[str]:
    pattern = next((rule.pattern for rule in rules if getattr(rule, "pattern", None)), None)
    if pattern in _BY_PATTERN:
        return _BY_PATTERN[pattern]
    if any(getattr(getattr(rule, "func", None), "__name__", "") in ("_known", "_active") for rule in rules):
        return st.just("EUR")
    is_filled = any(getattr(rule, "min_length", 0) for rule in rules)
    return _WORDS.filter(bool) if is_filled else _WORDS
