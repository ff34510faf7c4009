"""The identity of an embedding space, and the floor of its cosines.

Cosines mean something only within one model, so the lowest one that may enter a context is calibrated per model.
"""

from __future__ import annotations

import hashlib
import json

from chatrpc.models.embedding.template import TEMPLATE_VERSION
from chatrpc.ports import EmbeddingSpace

MINILM_DIGEST = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""SHA-256 of all-MiniLM-L6-v2's `model.safetensors` as its publisher gives it (revision 1110a243)."""

UNKNOWN_FLOOR = 0.2
"""Floor of a model that nobody has calibrated. It errs on the side of letting a candidate in, since the ranking still
orders what passes and a floor that is too high hides memories silently. Models whose unrelated texts lie high (E5, BGE:
often 0.6 and more) need a floor of their own by CHATRPC_EMBEDDER_FLOOR, or it filters nothing."""

# all-MiniLM-L6-v2 on LoCoMo (1,531 questions of categories 1 to 4, one speaker as the user, the other as the assistant,
# turns by the text template, exact search): recall@8 of the evidence turns is 0.318 without a floor, 0.314 at 0.3,
# 0.295 at 0.35, 0.244 at 0.4, 0.107 at 0.5 and 0.003 at 0.7. Of all turns, 9 % lie above 0.3 and 14 % above 0.25.
_FLOORS = {MINILM_DIGEST: 0.3}


def embedding_space(
    *,
    name: str,
    weights: str,
    precision: str,
    pooling: str,
    dimension: int,
    max_tokens: int,
    floor: float | None,
) -> EmbeddingSpace:
    """Describe the space of a model whose vectors have length 1.

    Two implementations that give the same vectors (same weights, precision and pooling) get the same fingerprint,
    so changing between them embeds nothing anew.

    Args:
        weights: Hex SHA-256 of the weights, or what identifies them where they are not at hand.
        max_tokens: Tokens of a text that the model reads, its own special tokens not counted.
        floor: What the operator sets; None takes the calibrated floor, `UNKNOWN_FLOOR` for a model without one.
    """
    identity = {
        "weights": weights,
        "precision": precision,
        "pooling": pooling,
        "normalisation": "l2",
        "dimension": dimension,
        "template": TEMPLATE_VERSION,
    }
    return EmbeddingSpace(
        name=name,
        fingerprint=hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest(),
        dimension=dimension,
        floor=_FLOORS.get(weights, UNKNOWN_FLOOR) if floor is None else floor,
        max_tokens=max_tokens,
    )
