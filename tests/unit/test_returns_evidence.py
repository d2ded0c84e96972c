"""Files of evidence: told apart by how they begin, read whole from a form, and no more of them than may be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from returns.api import evidence_form
from returns.domain.evidence import AttachEvidence, media_type
from shared.contracts.returns import ReturnEvidenceAttached
from shared.core.machine import Invalid
from tests.returns_story import RMA1, asking, day, delivered, only


def form(*parts: tuple[str, bytes], boundary: bytes = b"xxBOUNDARYxx") -> tuple[str, bytes]:
    body = b"".join(
        b"--"
        + boundary
        + b'\r\nContent-Disposition: form-data; name="'
        + name.encode()
        + b'"'
        + (b'; filename="p.png"' if name == "file" else b"")
        + b"\r\n\r\n"
        + content
        + b"\r\n"
        for name, content in parts
    )
    return f"multipart/form-data; boundary={boundary.decode()}", body + b"--" + boundary + b"--\r\n"


@given(st.binary(max_size=2000))
def test_a_file_is_read_from_its_form_byte_by_byte(content: bytes) -> None:
    assert evidence_form(*form(("about", b"A1-RMA1"), ("file", content))) == ("A1-RMA1", "p.png", content)


@pytest.mark.parametrize(
    ("parts", "field"),
    [
        ((("about", b"A1-RMA1"),), "file: is required"),
        ((("file", b"x"),), "about: is required"),
        ((("about", b"a b"), ("file", b"x")), "about: must be the id"),
        ((("about", b"A1"), ("about", b"A1"), ("file", b"x")), "about: is given twice"),
        ((("about", b"A1"), ("file", b"x"), ("mood", b"blue")), "mood: is not known"),
    ],
)
def test_a_form_that_is_not_whole_is_refused_by_the_name_of_its_part(
    parts: tuple[tuple[str, bytes], ...], field: str
) -> None:
    with pytest.raises(Invalid, match=field):
        evidence_form(*form(*parts))


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\x89PNG\r\n\x1a\n...", "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"GIF89a", "image/gif"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "image/webp"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", None),
        (b"%PDF-1.7", "application/pdf"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'>", None),
        (b"<html>", None),
        (b"", None),
    ],
)
def test_what_a_file_is_its_content_says(content: bytes, kind: str | None) -> None:
    assert media_type(content) == kind


def test_a_return_has_no_more_files_than_may_be_and_the_same_one_once() -> None:
    story = delivered()
    story.then(asking(day(3), mug=1))

    def attach(digest: str) -> AttachEvidence:
        return AttachEvidence(RMA1, "p.png", digest * 64, "image/png", 5, 2, day(4))

    first = only(story.then(attach("a"), attach("a")), ReturnEvidenceAttached)
    assert (first.evidence_id, first.sha256) == ("A1-EV1", "a" * 64)
    story.then(attach("b"))
    with pytest.raises(Invalid, match="file: A1-RMA1 has 2 files already"):
        story.then(attach("c"))
    with pytest.raises(Invalid, match="about: is no return or claim"):
        story.then(AttachEvidence("A1-RMA9", "p.png", "c" * 64, "image/png", 5, 2, day(4)))
