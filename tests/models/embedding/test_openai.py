"""An embeddings endpoint that misbehaves, over real HTTP. How it behaves well is in the contract's tests."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from pydantic import SecretStr

from chatrpc.errors import ModelRejected, Reason, Unavailable
from chatrpc.models.embedding import build_embedder
from chatrpc.settings import EmbedderSettings


class Endpoint(ThreadingHTTPServer):
    """Gives every request the same answer, `status` and `body`; where `body` is None, vectors of ones."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = 200
        self.body: bytes | None = None
        self.dimension = 8
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.requests.append(request)
        self.server.keys.append(self.headers["authorization"])
        body = self.server.body
        if body is None:
            rows = [[float(len(text))] + [0.0] * (self.server.dimension - 1) for text in request["input"]]
            data = [{"object": "embedding", "index": n, "embedding": row} for n, row in enumerate(rows)]
            # Endpoints owe no order to the index.
            body = json.dumps({"object": "list", "model": request["model"], "data": data[::-1]}).encode()
        self.send_response(self.server.status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.send_header("retry-after-ms", "1")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as endpoint:
        thread = threading.Thread(target=endpoint.serve_forever, args=(0.01,))
        thread.start()
        yield endpoint
        endpoint.shutdown()
        thread.join()


def settings(endpoint: Endpoint, **values: Any) -> EmbedderSettings:
    return EmbedderSettings(kind="openai", base_url=endpoint.base_url, model="m", **{"dimension": 8, **values})


async def test_long_lists_go_out_in_parts_with_the_model_and_the_key(endpoint: Endpoint) -> None:
    async with build_embedder(settings(endpoint, max_batch=4, api_key=SecretStr("a key"))) as embedder:
        vectors = await embedder.embed([f"text {n}" for n in range(10)])
    np.testing.assert_array_equal(vectors, np.eye(1, 8).repeat(10, axis=0))
    assert [len(request["input"]) for request in endpoint.requests] == [4, 4, 2]
    assert {request["model"] for request in endpoint.requests} == {"m"}
    assert set(endpoint.keys) == {"Bearer a key"}


async def test_vectors_of_another_length_are_refused_with_the_setting(endpoint: Endpoint) -> None:
    async with build_embedder(settings(endpoint, dimension=16)) as embedder:
        with pytest.raises(ModelRejected, match="have 8 dimensions; set CHATRPC_EMBEDDER_DIMENSION, which is 16"):
            await embedder.embed(["text"])


@pytest.mark.parametrize("status", [400, 401, 404])
async def test_a_refused_request_is_not_tried_again_and_leaks_nothing(endpoint: Endpoint, status: int) -> None:
    endpoint.status, endpoint.body = status, b'{"error": {"message": "secret"}}'
    async with build_embedder(settings(endpoint)) as embedder:
        with pytest.raises(ModelRejected, match=f"HTTP status {status}") as refusal:
            await embedder.embed(["text"])
    assert "secret" not in refusal.value.message
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_an_overloaded_endpoint_is_tried_again_then_unavailable(endpoint: Endpoint, status: int) -> None:
    endpoint.status, endpoint.body = status, b'{"error": {"message": "secret"}}'
    async with build_embedder(settings(endpoint)) as embedder:
        with pytest.raises(Unavailable) as outage:
            await embedder.embed(["text"])
    assert outage.value.reason is Reason.MODEL_UNAVAILABLE
    assert "secret" not in outage.value.message
    assert len(endpoint.requests) == 3


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not JSON",
        b"[]",
        b'"text"',
        b"{}",
        b'{"data": []}',
        b'{"data": null}',
        b'{"data": [{"index": 0}]}',
        b'{"data": [{"index": 0, "embedding": "%%%"}]}',
        b'{"data": [{"index": 0, "embedding": [1, 1, 1, 1, 1, 1, 1, "a"]}]}',
        b'{"data": [{"index": 0, "embedding": [0, 0, 0, 0, 0, 0, 0, 0]}]}',
        b'{"data": [{"index": 0, "embedding": [NaN, 0, 0, 0, 0, 0, 0, 0]}]}',
        b'{"data": [{"index": 0, "embedding": [1, 0, 0, 0, 0, 0, 0, 0]}, {"index": 1, "embedding": [1]}]}',
    ],
)
async def test_an_answer_without_the_vectors_is_unavailable(endpoint: Endpoint, body: bytes) -> None:
    endpoint.body = body
    async with build_embedder(settings(endpoint)) as embedder:
        with pytest.raises(Unavailable) as outage:
            await embedder.embed(["text"])
    assert outage.value.reason is Reason.MODEL_UNAVAILABLE


async def test_an_endpoint_that_is_not_there_is_unavailable(endpoint: Endpoint) -> None:
    gone = settings(endpoint)
    endpoint.server_close()
    async with build_embedder(gone) as embedder:
        with pytest.raises(Unavailable) as outage:
            await embedder.embed(["text"])
    assert outage.value.reason is Reason.MODEL_UNAVAILABLE
