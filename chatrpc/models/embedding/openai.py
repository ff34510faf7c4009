"""An embedder behind any OpenAI-compatible endpoint."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import openai

from chatrpc.errors import ModelRejected, Reason, SettingsError, Unavailable
from chatrpc.models.embedding.space import embedding_space
from chatrpc.models.embedding.template import well_formed
from chatrpc.models.meter import note_embedding
from chatrpc.ports import EmbeddingSpace, Vectors
from chatrpc.settings import EmbedderSettings

# Endpoints do not say how much they read. 512 tokens is what most open embedding models read, and a passage of that
# length is as much as one vector describes well; some endpoints refuse longer texts instead of cutting them.
_MAX_TOKENS = 512

_TIMEOUT = openai.Timeout(30.0, connect=5.0)


class OpenAIEmbedder:
    """Implements `chatrpc.ports.Embedder`. Long lists go out in several requests, one after the other.

    The space's weights are known by the model's name alone: an endpoint that changes what stands behind the name
    changes the vectors unseen.
    """

    def __init__(
        self, base_url: str, api_key: str, model: str, dimension: int, floor: float | None, max_batch: int
    ) -> None:
        self._client = openai.AsyncOpenAI(base_url=base_url, api_key=api_key, timeout=_TIMEOUT)
        self._model = model
        self._max_batch = max_batch
        self._space = embedding_space(
            name=f"{model}/openai",
            weights=f"name:{model}",
            precision="unknown",
            pooling="unknown",
            dimension=dimension,
            max_tokens=_MAX_TOKENS,
            floor=floor,
        )

    @property
    def space(self) -> EmbeddingSpace:
        return self._space

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """As `Embedder.embed`.

        Raises:
            Unavailable: The endpoint cannot be reached, is overloaded, or answers nonsense.
            ModelRejected: The endpoint refuses the request for good, or its vectors are not of the set length.
        """
        vectors = np.empty((len(texts), self._space.dimension), np.float32)
        for start in range(0, len(texts), self._max_batch):
            batch = [well_formed(text) for text in texts[start : start + self._max_batch]]
            vectors[start : start + len(batch)] = await self._request(batch)
        return vectors

    async def aclose(self) -> None:
        await self._client.close()

    async def _request(self, texts: list[str]) -> Vectors:
        try:
            response = await self._client.embeddings.create(model=self._model, input=texts)
            rows = sorted(response.data, key=lambda item: item.index)
            vectors: Vectors = np.asarray([row.embedding for row in rows], np.float32)
            # Some endpoints do not count, though the protocol has them do so.
            note_embedding(getattr(response.usage, "prompt_tokens", None))
        except (openai.APIConnectionError, openai.RateLimitError, openai.InternalServerError) as error:
            raise _unavailable() from error
        except openai.APIStatusError as error:
            raise ModelRejected(
                Reason.MODEL_REJECTED,
                f"The embedding endpoint refused the request with HTTP status {error.status_code}; its model and key "
                "are set by CHATRPC_EMBEDDER_MODEL and CHATRPC_EMBEDDER_API_KEY.",
            ) from error
        except (openai.OpenAIError, ValueError, TypeError, AttributeError) as error:
            # A body that is no list of embeddings surfaces as whatever the client's parsing stumbles over.
            raise _unavailable() from error
        if vectors.ndim != 2 or len(vectors) != len(texts) or not vectors.size:
            raise _unavailable()
        if vectors.shape[1] != self._space.dimension:
            raise ModelRejected(
                Reason.MODEL_REJECTED,
                f"The embedding endpoint's vectors have {vectors.shape[1]} dimensions; set "
                f"CHATRPC_EMBEDDER_DIMENSION, which is {self._space.dimension}, to that.",
            )
        lengths: Vectors = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not (np.isfinite(lengths) & (lengths > 0)).all():
            raise _unavailable()
        unit: Vectors = vectors / lengths
        return unit


def openai_embedder(settings: EmbedderSettings) -> OpenAIEmbedder:
    """The embedder of settings whose kind is `openai`; nothing is sent yet.

    Raises:
        SettingsError: The endpoint, the model or the dimension is not set.
    """
    if settings.base_url is None or settings.model is None or settings.dimension is None:
        raise SettingsError("An openai embedder needs CHATRPC_EMBEDDER_BASE_URL, _MODEL and _DIMENSION.")
    return OpenAIEmbedder(
        base_url=settings.base_url,
        # The client insists on a key; endpoints without keys ignore it.
        api_key=settings.api_key.get_secret_value() if settings.api_key else "none",
        model=settings.model,
        dimension=settings.dimension,
        floor=settings.floor,
        max_batch=settings.max_batch,
    )


def _unavailable() -> Unavailable:
    return Unavailable(Reason.MODEL_UNAVAILABLE, "The embedding endpoint did not answer; try again in a moment.")
