"""PDF files, made by hand so that tests can break each part of them."""

from __future__ import annotations

import zlib
from collections.abc import Sequence


def pdf_of(pages: Sequence[str], *, title: str = "", outline: Sequence[tuple[int, str]] = ()) -> bytes:
    """A PDF whose pages show these lines.

    Args:
        outline: Page index and title of each bookmark.
    """
    objects: dict[int, bytes] = {}
    kids = " ".join(f"{10 + 2 * index} 0 R" for index in range(len(pages)))
    objects[2] = f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode()
    objects[3] = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"
    objects[4] = f"<< /Title ({_escaped(title)}) >>".encode()
    for index, text in enumerate(pages):
        objects[10 + 2 * index] = page_object(11 + 2 * index)
        objects[11 + 2 * index] = stream_object(_shown(text))
    first = 10 + 2 * len(pages)
    bookmarks = ""
    if outline:
        bookmarks = "/Outlines 5 0 R"
        last = first + len(outline) - 1
        objects[5] = f"<< /Type /Outlines /First {first} 0 R /Last {last} 0 R /Count {len(outline)} >>".encode()
        for place, (page, name) in enumerate(outline):
            following = f"/Next {first + place + 1} 0 R" if place + 1 < len(outline) else ""
            objects[first + place] = (
                f"<< /Title ({_escaped(name)}) /Parent 5 0 R {following} /Dest [{10 + 2 * page} 0 R /Fit] >>".encode()
            )
    objects[1] = f"<< /Type /Catalog /Pages 2 0 R {bookmarks} >>".encode()
    return file_of(objects)


def page_object(contents: int) -> bytes:
    return (
        f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {contents} 0 R "
        "/Resources << /Font << /F1 3 0 R >> >> >>"
    ).encode()


def stream_object(data: bytes, *, layers: int = 1) -> bytes:
    """A stream, compressed so many times over."""
    for _ in range(layers):
        data = zlib.compress(data, 9)
    filters = "/FlateDecode " * layers
    return f"<< /Length {len(data)} /Filter [{filters}] >>\nstream\n".encode() + data + b"\nendstream"


def file_of(objects: dict[int, bytes]) -> bytes:
    """The file of numbered objects; 1 is the catalogue, 4 the document's information."""
    written = b"%PDF-1.7\n"
    offsets = {}
    for number, body in sorted(objects.items()):
        offsets[number] = len(written)
        written += f"{number} 0 obj\n".encode() + body + b"\nendobj\n"
    table = "".join(f"{number} 1\n{offset:010} 00000 n \n" for number, offset in offsets.items())
    trailer = f"trailer\n<< /Root 1 0 R /Info 4 0 R /Size {max(objects) + 1} >>\n"
    return written + f"xref\n0 1\n0000000000 65535 f \n{table}{trailer}startxref\n{len(written)}\n%%EOF\n".encode()


def bomb(*, megabytes: int) -> bytes:
    """A page whose contents unpack to so much, packed twice."""
    contents = b"(a) Tj " * (megabytes * 1024 * 1024 // 7)
    return file_of(_single({11: stream_object(contents, layers=2)}))


def endless_pages() -> bytes:
    """A tree of pages that has itself among its branches."""
    return file_of(_single({2: b"<< /Type /Pages /Kids [2 0 R 2 0 R 10 0 R] /Count 3 >>"}))


def endless_outline() -> bytes:
    """Bookmarks of which each is the next one's next."""
    return file_of(
        _single(
            {
                1: b"<< /Type /Catalog /Pages 2 0 R /Outlines 5 0 R >>",
                5: b"<< /Type /Outlines /First 6 0 R /Last 7 0 R /Count 2 >>",
                6: b"<< /Title (one) /Parent 5 0 R /Next 7 0 R /Dest [10 0 R /Fit] >>",
                7: b"<< /Title (two) /Parent 5 0 R /Next 6 0 R /Dest [10 0 R /Fit] >>",
            }
        )
    )


def deeply_nested(depth: int) -> bytes:
    """A page whose contents are an array within an array, and so on."""
    return file_of(_single({10: page_object(11)[:-2] + b"/Deep " + b"[" * depth + b"]" * depth + b" >>"}))


def _single(changed: dict[int, bytes]) -> dict[int, bytes]:
    objects = {
        1: b"<< /Type /Catalog /Pages 2 0 R >>",
        2: b"<< /Type /Pages /Kids [10 0 R] /Count 1 >>",
        3: b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        4: b"<< >>",
        10: page_object(11),
        11: stream_object(_shown("A single page.")),
    }
    return objects | changed


def _shown(text: str) -> bytes:
    lines = " T* ".join(f"({_escaped(line)}) Tj" for line in text.split("\n"))
    return f"BT /F1 12 Tf 14 TL 72 720 Td {lines} ET".encode()


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")
