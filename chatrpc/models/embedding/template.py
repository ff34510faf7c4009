"""The form in which a message's text is embedded.

Small embedding models find the answering turn more often when the text says who spoke. With all-MiniLM-L6-v2 on
LoCoMo's questions of categories 1 to 4, recall@8 of the evidence turns is 0.26 for the bare text, 0.32 for
"role: text" and 0.42 for "name: text": its questions ask after people by name, and a role names nobody. A role before
the name takes some of that back (1 point of recall@10 in the whole ranking), so a text that names its speaker is
embedded as it is.

The template is part of an embedding space's identity: whoever changes it must change `TEMPLATE_VERSION`, and a server
then refuses databases whose messages were embedded in the other form.
"""

from __future__ import annotations

import re

from chatrpc.domain import Role

TEMPLATE_VERSION = "speaker-2"

TEMPLATE_TOKENS = 8
"""Upper bound of the tokens that the template adds to a text."""


# Up to three words and a colon.
_LABEL = re.compile(r"\s*([^\W_][\w.'\u2019-]*(?: [^\W_][\w.'\u2019-]*){0,2}):\s")


def speaker(text: str) -> str | None:
    """The name that a text begins with, as turns of a transcript do: "Anna M\xfcller: I went home"."""
    label = _LABEL.match(text)
    if label is None or any(word[0].islower() for word in label[1].split()):
        return None
    return label[1]


def embedding_text(role: Role, text: str) -> str:
    """The text to embed for a message, or a passage of one, that `role` spoke."""
    return f"{role.value}: {text}" if speaker(text) is None else text


def well_formed(text: str) -> str:
    """The text with a question mark for each lone surrogate: those have no UTF-8 form, so no tokenizer takes them,
    and one of them must not spoil the batch that others share."""
    return text.encode("utf-8", "replace").decode()
