"""What every fact has in common, and the register of all of them: one class, one type, one version."""

from collections.abc import Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Protocol, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

_NO_CONTROLS = r"^[^\x00-\x08\x0b-\x1f\x7f-\x9f]*$"
"""Tab and line feed only; a pattern rather than a function, since it is checked on every fact that is read."""

Id = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@-]*$")]
Text = Annotated[str, Field(max_length=2000, pattern=_NO_CONTROLS)]
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=_NO_CONTROLS)]
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
    """A frozen value from outside. Strict: a field nobody knows is an error that names it."""

    model_config = ConfigDict(frozen=True, extra="forbid")


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


def schema_id(fact: type[Fact]) -> str:
    """The name of a fact's schema, which carries its version: `urn:order-workflows:order.placed:1`."""
    return f"urn:order-workflows:{fact.type}:{fact.schema_version}"


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
