"""What figures count: rows made from what a section adds up to, so that they too depend on the set of facts only. Pure."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Generic, NamedTuple, TypeVar

from shared.contracts.notifications import NotificationKind
from shared.contracts.payments import RefundChannel
from shared.contracts.support import RootCauseTag
from support_view.domain.causes import Cause, Override
from support_view.domain.notifications import Notification
from support_view.domain.notifications import Status as MessageStatus
from support_view.domain.payments import Anomaly, Leg, LegStatus, Payments, Refund, RefundStatus
from support_view.domain.returns import Return, Stage
from support_view.domain.returns import Status as ReturnStatus
from support_view.domain.support import Case, Contact, Escalation, Support, Tagged, Word
from support_view.domain.timeline import Resolved
from support_view.figures.definitions import MESSAGE

S = TypeVar("S")
I = TypeVar("I")  # noqa: E741


class Measured(NamedTuple):
    """One return, payout, message … of an order, as figures count it.

    A duration runs from `began_at` to `ended_at`, None while it is open. Of `whole` things, `part` are what a share asks
    for. `labels` are `dimension:value`; `left_out` is why it does not count. `facts` are the sequences behind it.
    """

    measure: str
    id: str
    began_at: datetime
    ended_at: datetime | None = None
    part: int = 0
    whole: int = 1
    labels: tuple[str, ...] = ()
    left_out: str | None = None
    facts: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Source(Generic[S, I]):
    """The things of a section's state by id, and the rows of each."""

    things: Callable[[S], Mapping[str, I]]
    rows: Callable[[str, I], Iterator[Measured]]


STAGES: Final = tuple(Stage)
LEFT_OUT: Final = (ReturnStatus.DECLINED, ReturnStatus.CANCELLED, ReturnStatus.EXPIRED)


def of_return(id: str, told: Return) -> Iterator[Measured]:
    """Its whole way and each stage of it; how it was decided; and each time it was resolved."""
    requested = told.stages.get(Stage.REQUESTED)
    if requested is None:
        return
    policy = f"policy:{told.policy}"
    labels = (*(f"reason:{reason}" for reason in sorted({asked.reason for asked in told.asked.values()})), policy)
    left_out = told.status.value if told.status in LEFT_OUT else None
    ended_at = told.ended.at if left_out and told.ended else None
    if told.status in (ReturnStatus.RESOLVED, ReturnStatus.CLOSED):
        end = told.stages.get(Stage.RESOLVED) or told.ended
        ended_at = end.at if end else None
    yield Measured("return", id, requested.at, ended_at, labels=labels, left_out=left_out, facts=told.facts)
    before = requested
    following: Stage | None = Stage.DECIDED
    for stage, after in zip(STAGES[1:], (*STAGES[2:], None), strict=True):
        reached = told.stages.get(stage)
        if reached is None or reached.sequence < before.sequence:
            continue  # not gone through, or before it was opened again
        both = (before.sequence, reached.sequence)
        yield Measured(
            "return_stage", f"{id}/{stage}", before.at, reached.at, labels=(f"stage:{stage}", *labels), facts=both
        )
        before, following = reached, after
    if ended_at is None and following:
        facts = (before.sequence,)
        yield Measured(
            "return_stage", f"{id}/{following}", before.at, None, labels=(f"stage:{following}", *labels), facts=facts
        )
    if decided := told.stages.get(Stage.DECIDED):
        yield Measured(
            "return_decision", id, decided.at, part=int(told.is_exception), labels=(policy,), facts=told.facts
        )
    yield from of_resolutions(id, told.resolutions, "return")


def of_resolutions(id: str, resolutions: Sequence[Resolved], of: str) -> Iterator[Measured]:
    """Each time it was resolved, and whether that lasted."""
    for n, resolved in enumerate(resolutions, 1):
        at, undone = resolved.mark.at, resolved.undone
        facts = (resolved.mark.sequence, *([undone] if undone else ()))
        yield Measured("resolution", f"{id}/{n}", at, part=int(undone is not None), labels=(f"of:{of}",), facts=facts)


def of_refund(id: str, refund: Refund) -> Iterator[Measured]:
    """Its whole way, that of its payouts by channel, and whether something went wrong with them."""
    began_at = refund.trigger_at
    if began_at is None:
        return
    is_out = refund.status in (RefundStatus.REJECTED, RefundStatus.CANCELLED)
    ended_at = refund.ended_at if is_out else None
    if refund.status is RefundStatus.SUCCEEDED:
        ended_at = max(filter(None, (leg.settled_at for leg in refund.legs.values())), default=refund.completed_at)
    kind = (f"kind:{refund.kind}",) if refund.kind else ()
    left_out = refund.status.value if is_out else None
    yield Measured("refund", id, began_at, ended_at, labels=kind, left_out=left_out, facts=refund.facts)
    by_channel: dict[str, list[Leg]] = {}
    for leg in refund.legs.values():
        if leg.status is LegStatus.SUCCEEDED or not (leg.is_replaced or is_out):
            by_channel.setdefault(channel_of(leg), []).append(leg)
    for channel, legs in by_channel.items():
        settled = [leg.settled_at for leg in legs]
        paid_at = None if None in settled else max(filter(None, settled))
        labels = (f"channel:{channel}", *kind)
        yield Measured("payout", f"{id}/{channel}", began_at, paid_at, labels=labels, facts=refund.facts)
    if refund.submitted_at:
        wrong = int(bool(refund.errors))
        yield Measured("refund_error", id, refund.submitted_at, part=wrong, labels=kind, facts=refund.facts)


def channel_of(leg: Leg) -> str:
    """Back to the tender that paid, by its kind; or the fallback."""
    is_original = leg.channel is RefundChannel.ORIGINAL
    return leg.tender_kind.value if is_original and leg.tender_kind else leg.channel.value


ABOUT_GOODS: Final = frozenset(
    {
        NotificationKind.SHIPMENT,
        NotificationKind.BACKORDER,
        NotificationKind.BACKORDER_REVISED,
        NotificationKind.CANCELLATION,
        NotificationKind.DELIVERY,
    }
)
"""Messages that say what of an order comes when, and what does not."""


def of_message(id: str, message: Notification) -> Iterator[Measured]:
    """Its units, and those of them that it told truly. One that says nothing of units counts as one."""
    if message.kind not in ABOUT_GOODS or message.queued_at is None:
        return
    units = sum(said.quantity for said in message.said if said.line_id is not None) or 1
    is_told = message.status in (MessageStatus.SENT, MessageStatus.DELIVERED)
    left_out = None
    if message.status is MessageStatus.COALESCED:
        left_out = "told in another message"
    elif message.status is MessageStatus.SUPPRESSED and not message.is_stale:
        left_out = "held back"
    yield Measured(
        MESSAGE,
        id,
        message.queued_at,
        message.ended_at,
        part=max(0, units - message.untrue_units) if is_told else 0,
        whole=units,
        labels=(f"kind:{message.kind}",),
        left_out=left_out,
        facts=message.facts,
    )


def of_anomaly(id: str, found: tuple[Anomaly, str | None]) -> Iterator[Measured]:
    """By how much the provider's books differ from ours, in minor units."""
    anomaly, currency = found
    difference = abs((anomaly.observed_minor or 0) - (anomaly.expected_minor or 0))
    labels = (f"currency:{currency or 'unknown'}",)
    yield Measured("drift", id, anomaly.mark.at, part=difference, labels=labels, facts=(anomaly.mark.sequence,))


def _anomalies(state: Payments) -> Mapping[str, tuple[Anomaly, str | None]]:
    return {str(anomaly.mark.sequence): (anomaly, state.currency) for anomaly in state.anomalies}


@dataclass(frozen=True, slots=True)
class Asked:
    """A contact, the one before it of the same customer on the same order, and the causes found of the order's trouble."""

    contact: Contact
    before: Contact | None
    causes: tuple[str, ...]


def _contacts(state: Support) -> Mapping[str, Asked]:
    """Those that count by time; what does not count is repeated by nothing, and repeats nothing."""
    causes = tuple(sorted(state.causes.standing)) or ("none",)
    last: dict[str | None, Contact] = {}
    asked = {}
    for id, contact in sorted(state.contacted.items(), key=lambda one: (one[1].mark.at, one[1].mark.sequence)):
        if contact.left_out is None:
            asked[id] = Asked(contact, last.get(contact.customer), causes)
            last[contact.customer] = contact
        else:
            asked[id] = Asked(contact, None, causes)
    return asked


REPEATED_WITHIN: Final = (7, 14, 45)
"""Days; the last instant of them counts."""


def of_contact(id: str, asked: Asked) -> Iterator[Measured]:
    """Whether it repeats an earlier one, by each length of time."""
    contact, before = asked.contact, asked.before
    facts = (*([before.mark.sequence] if before else ()), contact.mark.sequence)
    for days in REPEATED_WITHIN:
        is_repeat = before is not None and contact.mark.at - before.mark.at <= timedelta(days=days)
        yield Measured(
            f"contact_{days}",
            id,
            contact.mark.at,
            part=int(is_repeat),
            labels=tuple(f"cause:{cause}" for cause in asked.causes),
            left_out=contact.left_out,
            facts=facts if is_repeat else facts[-1:],
        )


@dataclass(frozen=True, slots=True)
class Attributed:
    """A tag of an order: what rules said of it last and when they did, and what a person says, `instead` of which cause."""

    tag: RootCauseTag
    cause: Cause | None
    told: tuple[Tagged, ...]
    override: Override | None
    word: Word | None
    instead: Cause | None

    @property
    def is_said(self) -> bool:
        """A person says that it is a cause."""
        return self.override is not None and self.override.replaced_by is self.tag


def _attributed(state: Support) -> Mapping[str, Attributed]:
    """Every tag that rules or people speak of."""
    found, said = state.causes.found, state.causes.said
    attributed: dict[str, Attributed] = {}
    for tag in sorted({*found, *said}):
        id = said.get(tag, "")
        override = state.causes.overrides.get(id)
        instead = found.get(override.tag) if override is not None and override.tag is not None else None
        told = state.tagged.get(tag, ())
        attributed[tag] = Attributed(tag, found.get(tag), told, override, state.words.get(id), instead)
    return attributed


def of_cause(id: str, of: Attributed) -> Iterator[Measured]:
    """The cause, where it stands; and for each version of its rule that found it, whether people let it stand."""
    borne = next((cause.borne for cause in (of.cause, of.instead) if cause is not None), None)
    marks = [*(told.mark for told in of.told), *([of.word.mark] if of.word is not None else ())]
    left_out = None
    if of.override is not None and not of.is_said:
        left_out = "a person said otherwise"
    elif of.cause is not None and of.cause.is_refuted and not of.is_said:
        left_out = OFF if of.cause.was_switched_off else "refuted by later facts"
    yield Measured(
        "cause",
        id,
        (borne.since if borne is not None else None) or marks[0].at,
        labels=(
            f"cause:{id}",
            f"by:{'person' if of.is_said else 'rules'}",
            *(borne.about if borne is not None else ()),
        ),
        left_out=left_out,
        facts=tuple(mark.sequence for mark in marks),
    )
    for version in sorted({told.version for told in of.told}):
        yield _judged(id, of, version)


def _judged(id: str, of: Attributed, version: int) -> Measured:
    told = [one for one in of.told if one.version == version]
    is_set_aside = of.override is not None and of.override.tag is of.tag
    is_wrong = is_set_aside and of.override is not None and of.override.version == version
    left_out = None
    if is_set_aside and not is_wrong and of.word is not None and of.word.mark.sequence < told[0].mark.sequence:
        left_out = "set aside before"
    elif not is_wrong and of.cause is not None and of.cause.is_refuted and of.cause.version == version:
        left_out = OFF if of.cause.was_switched_off else "refuted by later facts"
    facts = (
        *(one.mark.sequence for one in told),
        *([of.word.mark.sequence] if is_wrong and of.word is not None else ()),
    )
    labels = (f"rule:{told[-1].rule} v{version}", f"cause:{id}")
    place = f"{id}/{version}"
    return Measured(
        "cause_found", place, told[0].mark.at, part=int(not is_wrong), labels=labels, left_out=left_out, facts=facts
    )


OFF: Final = "rule switched off"


def of_case(id: str, case: Case) -> Iterator[Measured]:
    yield from of_resolutions(id, case.resolutions, "case")


def of_escalation(id: str, escalation: Escalation) -> Iterator[Measured]:
    """Whether a person took it up before it was over."""
    if escalation.raised_at is None:
        return
    is_taken = escalation.taken_at is not None
    yield Measured(
        "escalation",
        id,
        escalation.raised_at,
        escalation.taken_at or escalation.cleared_at,
        part=int(is_taken),
        labels=(f"rule:{escalation.rule}",),
        left_out=OFF if escalation.is_switched_off and not is_taken else None,
        facts=escalation.facts,
    )


SOURCES: Final[Mapping[str, tuple[Source[Any, Any], ...]]] = {
    "returns": (Source(lambda state: state.returns, of_return),),
    "payments": (Source(lambda state: state.refunds, of_refund), Source(_anomalies, of_anomaly)),
    "support": (
        Source(_contacts, of_contact),
        Source(lambda state: state.cases, of_case),
        Source(lambda state: state.escalations, of_escalation),
        Source(_attributed, of_cause),
    ),
    "notifications": (Source(lambda state: state.notifications, of_message),),
}
"""By the service whose facts they are."""


def measured(service: str, state: Any) -> Iterator[Measured]:
    """All rows of a section."""
    for source in SOURCES.get(service, ()):
        for id, thing in source.things(state).items():
            yield from source.rows(id, thing)


Place = tuple[str, str]
"""Measure and id: what a row is, within its section."""


def news(service: str, before: Any, after: Any) -> tuple[list[Measured], list[Place]]:
    """The rows that are new or other than they were, and those that are gone. What did not change is not looked into."""
    changed: list[Measured] = []
    gone: list[Place] = []
    for source in SOURCES.get(service, ()):
        was, now = source.things(before), source.things(after)
        for id in {**was, **now}:
            if was.get(id) is now.get(id):
                continue
            old = {(row.measure, row.id): row for row in (source.rows(id, was[id]) if id in was else ())}
            new = {(row.measure, row.id): row for row in (source.rows(id, now[id]) if id in now else ())}
            changed += [row for place, row in new.items() if old.get(place) != row]
            gone += [place for place in old if place not in new]
    return changed, gone
