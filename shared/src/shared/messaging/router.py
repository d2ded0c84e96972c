"""Which records are which commands, and what becomes of them in one transaction."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import structlog

from shared.contracts.base import FACTS, Fact, Input
from shared.contracts.partners import WAREHOUSE_MESSAGES, PartnerMessage
from shared.core.machine import Invalid, NotAllowed
from shared.messaging.database import BROKEN_LAWS
from shared.messaging.envelope import Cause, Context, Undecodable, context_of, data_of, fact_of, observed_time, type_of
from shared.messaging.locks import (
    LOCK_TIMEOUT,
)
from shared.messaging.parking import Parked, Record
from shared.messaging.shell import Db, Flow, Message, Outcome, apply, one_batch_at_a_time, yielding_every

if TYPE_CHECKING:
    pass

log = structlog.get_logger()

Translate = Callable[[Any, Cause], Message[Any] | None]


@dataclass(frozen=True, slots=True)
class Route:
    """Which facts and partner messages become commands of which flow; None from a translation means: not for us."""

    flow: Flow[Any, Any, Any]
    translations: Mapping[type[Fact] | type[Input], Translate]


LOCKED: Final = "locked"
"""Why a message is parked that nothing is wrong with: another session holds its row. It is processed again by itself."""

Process = Callable[[Db, Sequence[Record]], Awaitable[list[Parked]]]
"""What a consumer does with a batch inside its transaction: everything, or a list of what is to be parked."""


def reason_of(error: Exception) -> str:
    """A code to count parked messages by."""
    if isinstance(error, Undecodable):
        return error.reason
    if isinstance(error, NotAllowed):
        return "not_allowed"
    if isinstance(error, Invalid):
        return "invalid"
    if isinstance(error, BROKEN_LAWS):
        return "breaks_a_law"
    if isinstance(error, LOCK_TIMEOUT):
        return LOCKED
    return "fault"


def _read(model: type[Fact] | type[Input], context: Context, value: bytes | None) -> tuple[Any, Cause]:
    """What a record says and why; a partner's clock is not believed where it cannot be right."""
    cause = context.cause()
    if issubclass(model, Fact):
        return fact_of(context, value), cause
    message = data_of(model, value)
    if isinstance(message, PartnerMessage):
        message = message.model_copy(update={"occurred_at": observed_time(message.occurred_at)})
    return message, cause._replace(at=observed_time(cause.at))


class Router:
    """Turns records into commands and applies them. Its `process` is the whole of a consuming service."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._by_type: dict[str, tuple[Flow[Any, Any, Any], type[Fact] | type[Input], Translate]] = {}
        names = {model: name for name, model in WAREHOUSE_MESSAGES.items()}
        for route in routes:
            for model, translate in route.translations.items():
                name = model.type if issubclass(model, Fact) else names[model]  # type: ignore[index]
                if name in self._by_type:
                    raise ValueError(f"two routes for {name}")
                self._by_type[name] = (route.flow, model, translate)

    def _translated(self, record: Record) -> tuple[Flow[Any, Any, Any], Message[Any]] | Undecodable | None:
        """The command, or why there is none, or None for a record that is not for us."""
        kind = type_of(record.headers)
        known = self._by_type.get(kind or "")
        if known is None:
            if kind in FACTS or kind in WAREHOUSE_MESSAGES:
                return None
            try:
                context_of(record.key, record.headers)
            except Undecodable as error:
                return error
            return Undecodable("unknown_type", f"ce_type: {kind} is not known")
        flow, model, translate = known
        try:
            context = context_of(record.key, record.headers)
            message = translate(*_read(model, context, record.value))
        except Undecodable as error:
            return error
        return None if message is None else (flow, message)

    async def process(self, db: Db, records: Sequence[Record]) -> list[Parked]:
        """One transaction's worth: what cannot be read or decided comes back to be parked, the rest is applied."""
        batches: dict[int, tuple[Flow[Any, Any, Any], list[Message[Any]], list[Record]]] = {}
        unread: list[tuple[Record, Undecodable]] = []
        async with one_batch_at_a_time(len(records)):
            async for record in yielding_every(records):
                translated = self._translated(record)
                if isinstance(translated, Undecodable):
                    unread.append((record, translated))
                elif translated is not None:
                    flow, command = translated
                    _, commands, sources = batches.setdefault(id(flow), (flow, [], []))
                    commands.append(command)
                    sources.append(record)
        parked = [Parked(record, record.parking_key(), error.reason, str(error)) for record, error in unread]
        if unread:
            parked += self._successors(batches, unread)
        for flow, commands, sources in batches.values():
            outcomes, _ = await apply(db, flow, commands, queue_behind=True)
            parked += [_parked(t, r, o) for t, r, o in zip(commands, sources, outcomes, strict=True) if _is_parked(o)]
        return sorted(parked, key=lambda p: (p.record.topic, p.record.partition, p.record.position))

    @staticmethod
    def _successors(
        batches: dict[int, tuple[Flow[Any, Any, Any], list[Message[Any]], list[Record]]],
        unread: Sequence[tuple[Record, Undecodable]],
    ) -> list[Parked]:
        """What came after an unreadable record of the same key in the same partition waits behind it."""
        first: dict[tuple[str, int, bytes], int] = {}
        for record, _ in unread:
            if record.key:
                first.setdefault((record.topic, record.partition, record.key), record.position)
        behind: list[Parked] = []
        for which, (flow, commands, sources) in batches.items():
            kept = [
                (t, r)
                for t, r in zip(commands, sources, strict=True)
                if r.position < first.get((r.topic, r.partition, r.key or b""), r.position + 1)
            ]
            dropped = {r.position for r in sources} - {r.position for _, r in kept}
            behind += [
                Parked(r, r.parking_key(), "behind", "an earlier message of this key is parked")
                for r in sources
                if r.position in dropped and (r.topic, r.partition, r.key or b"") in first
            ]
            batches[which] = (flow, [t for t, _ in kept], [r for _, r in kept])
        return behind


def _is_parked(outcome: Outcome) -> bool:
    return outcome.error is not None or outcome.is_behind


def _parked(message: Message[Any], record: Record, outcome: Outcome) -> Parked:
    if outcome.error is None:
        return Parked(record, message.key, "behind", "an earlier message of this key is parked")
    log.error(
        "message.parked",
        key=message.key,
        topic=record.topic,
        partition=record.partition,
        position=record.position,
        error=repr(outcome.error),
        exc_info=None if isinstance(outcome.error, NotAllowed | Invalid | Undecodable) else outcome.error,
    )
    return Parked(record, message.key, reason_of(outcome.error), f"{outcome.error}" or repr(outcome.error))
