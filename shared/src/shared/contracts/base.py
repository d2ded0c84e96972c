"""What every fact has in common, and the register of all of them: one class, one type, one version."""

import re
from collections.abc import Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Protocol, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from shared.core import card_numbers

_NO_CONTROLS = r"^[^\x00-\x08\x0b-\x1f\x7f-\x9f]*$"
"""Tab and line feed only; a pattern rather than a function, since it is checked on every fact that is read."""
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

Id = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@-]*$")]
OrderId = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]*$")]
"""No colon: what stands before one names another kind of aggregate, such as `stock:` or `policy:`."""
Text = Annotated[str, Field(max_length=2000, pattern=_NO_CONTROLS)]
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=_NO_CONTROLS)]
WRITTEN_KIB = 64
LongText = Annotated[str, Field(max_length=WRITTEN_KIB * 1024, pattern=_NO_CONTROLS)]


def _plain(text: Any) -> Any:
    """With line feeds at the ends of lines, and without control characters, which no text has."""
    return _CONTROLS.sub("", text.replace("\r\n", "\n").replace("\r", "\n")) if isinstance(text, str) else text


def _written(text: Any) -> Any:
    if isinstance(text, str) and len(text.encode("utf-8", "replace")) > WRITTEN_KIB * 1024:
        raise PydanticCustomError("text_too_large", "must be at most {most} KiB", {"most": WRITTEN_KIB})
    return _plain(text)


def _remark(text: Any) -> Any:
    text = _plain(text)
    return text if not isinstance(text, str) or len(text) <= 2000 else f"{text[:1999]}…"


Written = Annotated[LongText, BeforeValidator(_written)]
"""What a customer wrote, in an Observation: taken as it is up to 64 KiB, however it ends its lines."""
Remark = Annotated[Text, BeforeValidator(_remark)]
"""What a partner says in its own words, in an Observation: taken however it ends its lines, and as much as a fact holds."""
Quantity = Annotated[int, Field(gt=0, le=100_000, strict=True, description="whole units")]
Count = Annotated[int, Field(ge=0, le=10_000_000, strict=True)]


if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass as _Kind
else:

    class _Kind(type(BaseModel)):
        """Facts are told apart by `match` all day. pydantic's classes are abstract base classes, with which anything may be
        registered, so that each question is answered in Python; nothing is registered with these."""

        __instancecheck__ = type.__instancecheck__


class Model(BaseModel, metaclass=_Kind):
    """A frozen value inside a fact. Readers are tolerant: a field they do not know is ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Input(BaseModel):
    """A frozen value from outside: what somebody wishes. Strict: a field nobody knows is an error that names it, and so is
    a card number in any text or id."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*")
    @classmethod
    def _card_numbers(cls, value: Any) -> Any:
        return card_numbers.refused(value)


class Observation(Input):
    """What has happened, or what a customer wrote, as somebody outside tells it: taken with card numbers masked."""

    @field_validator("*")
    @classmethod
    def _card_numbers(cls, value: Any) -> Any:
        return card_numbers.masked_in(value)


class Reply(Model):
    """What another system answers or reports in a format of its own: tolerant as a fact, and with card numbers masked."""

    @field_validator("*")
    @classmethod
    def _card_numbers(cls, value: Any) -> Any:
        return card_numbers.masked_in(value)


class PolicyRef(Model):
    """A policy at a version: what a decision was made by."""

    policy_id: Id
    version: int = Field(ge=1)


class LineQuantity(Model):
    line_id: Id
    quantity: Quantity


class _OfLine(Protocol):
    @property
    def line_id(self) -> str: ...


L = TypeVar("L", bound=tuple[_OfLine, ...])


def each_line_once(lines: L) -> L:
    """Raises ValueError for a line that is named twice: each entry would be checked alone, and the sum by nobody."""
    named: set[str] = set()
    for line in lines:
        if line.line_id in named:
            raise ValueError(f"must name each line once, with its sum: {line.line_id} is there twice")
        named.add(line.line_id)
    return lines


EachLineOnce = AfterValidator(each_line_once)
"""For every list of lines in a request whose entries are checked one by one."""


class Fact(Model):
    """Something that happened. `type` travels in `ce_type`, `schema_version` in `ce_dataschema`, `subject` is the Kafka key."""

    type: ClassVar[str]
    schema_version: ClassVar[int] = 1
    service: ClassVar[str]

    @property
    def subject(self) -> str:
        raise NotImplementedError

    def __init_subclass__(cls, type: str | None = None, service: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if service:
            cls.service = service
        if type:
            if type in FACTS:
                raise TypeError(f"two facts of type {type}")
            cls.type = type
            FACTS[type] = cls


class OrderFact(Fact):
    """A fact of one order; the order is its subject."""

    order_id: Id

    @property
    def subject(self) -> str:
        return self.order_id


FACTS: dict[str, type[Fact]] = {}
"""Every fact by its type, filled as the contract modules are imported."""


def facts_of(service: str) -> Iterator[type[Fact]]:
    return (fact for fact in FACTS.values() if fact.service == service)


SCHEMAS = "urn:order-workflows:"


def schema_id(fact: type[Fact]) -> str:
    """The name of a fact's schema, which carries its version: `urn:order-workflows:order.placed:1`."""
    return f"{SCHEMAS}{fact.type}:{fact.schema_version}"


class Bucket(StrEnum):
    """The forward buckets: every ordered unit is in exactly one."""

    UNALLOCATED = "unallocated"
    ALLOCATED = "allocated"
    BACKORDERED = "backordered"
    PACKED = "packed"
    IN_TRANSIT = "in_transit"
    DELIVERED = "delivered"
    LOST = "lost"
    RETURNED_TO_SENDER = "returned_to_sender"
    CANCELLED = "cancelled"


class TenderKind(StrEnum):
    CARD = "card"
    WALLET = "wallet"
    BANK_DEBIT = "bank_debit"
    BANK_TRANSFER = "bank_transfer"
    GIFT_CARD = "gift_card"
    STORE_CREDIT = "store_credit"
    CASH_ON_DELIVERY = "cash_on_delivery"
    INVOICE = "invoice"


PREPAID = frozenset({TenderKind.GIFT_CARD, TenderKind.STORE_CREDIT})
"""Tenders that are captured at confirmation, before anything is handed over."""
