"""Why an order went wrong: by which rule and which facts, or by whose word."""

from collections.abc import Iterator
from datetime import datetime
from typing import Final

from pydantic import Field

from shared.contracts.base import Model
from shared.contracts.support import RootCauseTag
from support_view.domain.causes import RULES
from support_view.summary.sections import Sections

_TAGS: Final = tuple(RootCauseTag)


class CauseState(Model):
    """What rules found, a person's word on it, or both. One that later facts refuted and nobody speaks of is left out."""

    tag: RootCauseTag
    stands: bool = Field(description="it is a cause by the last word on it")
    text: str = Field(description="why rules find it")
    rule: str | None = Field(description="that found it, none where a person named it")
    version: int | None = Field(description="of the rules that found it")
    confidence_percent: int | None
    since: datetime | None = Field(description="when the first fact that bears it out happened")
    about: tuple[str, ...] = Field(description="carriers, locations, skus and policies: `carrier:dhl`")
    evidence: tuple[str, ...] = Field(description="ids of the facts that bear it out")
    override_id: str | None = Field(description="of a person's word on it, where there is one")
    said_by: str | None
    said: str | None = Field(description="why they say so")


def causes(s: Sections) -> Iterator[CauseState]:
    """In the order of the tags."""
    known = s.support.causes
    standing, said = known.standing, known.said
    for tag in _TAGS:
        cause, id = known.found.get(tag), said.get(tag)
        if cause is not None and cause.is_refuted:
            cause = None
        if cause is None and id is None:
            continue
        word = s.support.words.get(id or "")
        yield CauseState(
            tag=tag,
            stands=tag in standing,
            text=RULES[tag].because,
            rule=cause and cause.rule,
            version=cause and cause.version,
            confidence_percent=cause and cause.confidence_percent,
            since=cause and cause.borne.since,
            about=cause.borne.about if cause is not None else (),
            evidence=cause.borne.evidence if cause is not None else (),
            override_id=id,
            said_by=word and word.actor,
            said=known.overrides[id].detail if id is not None else None,
        )
