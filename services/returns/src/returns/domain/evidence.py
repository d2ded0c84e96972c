"""Evidence is files that show what a customer says. Their type is read from their content, never from their name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, TypeAlias

from shared.contracts.base import Fact
from shared.contracts.returns import ReturnEvidenceAttached
from shared.core.machine import Invalid

MediaType: TypeAlias = Literal["image/png", "image/jpeg", "image/gif", "image/webp", "application/pdf"]

_BEGINNINGS: Final[Mapping[bytes, MediaType]] = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF87a": "image/gif",
    b"GIF89a": "image/gif",
    b"%PDF-": "application/pdf",
}


def media_type(content: bytes) -> MediaType | None:
    """Read the type from how the file begins; None for what is neither an image that every browser shows nor a PDF."""
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for beginning, kind in _BEGINNINGS.items() if content.startswith(beginning)), None)


@dataclass(frozen=True, slots=True)
class File:
    about: str
    name: str
    sha256: str
    media_type: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class AttachEvidence:
    """`most`: how many files a return or a claim may have."""

    about: str
    name: str
    sha256: str
    media_type: MediaType
    size_bytes: int
    most: int
    at: datetime


def attached(order_id: str, files: Mapping[str, File], command: AttachEvidence) -> Sequence[Fact]:
    """Attach a file; the same file again is no second one. Raises Invalid above the limit."""
    known = [file for file in files.values() if file.about == command.about]
    if any(file.sha256 == command.sha256 for file in known):
        return []
    if len(known) >= command.most:
        raise Invalid("file", f"{command.about} has {command.most} files already, which is the most")
    return [
        ReturnEvidenceAttached(
            order_id=order_id,
            evidence_id=f"{order_id}-EV{len(files) + 1}",
            about=command.about,
            name=command.name,
            sha256=command.sha256,
            media_type=command.media_type,
            size_bytes=command.size_bytes,
        )
    ]


def file_of(fact: ReturnEvidenceAttached) -> File:
    return File(fact.about, fact.name, fact.sha256, fact.media_type, fact.size_bytes)
