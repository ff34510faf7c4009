"""gRPC-web through Envoy by @connectrpc/connect-web in Node, under the rules of a browser; see `web/page_fetch.mjs`."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, ResourceInfo

from tests.e2e.stack import PATIENCE, ROOT, SCRIPTS, Dev, environment

WEB = Path(__file__).with_name("web")
ORIGIN = "http://localhost:5173"

Json = dict[str, Any]


@pytest.fixture(scope="module")
def node_scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts beside their packages, installed by the lock file."""
    missing = [program for program in ("node", "npm") if shutil.which(program) is None]
    if missing:
        reason = f"{' and '.join(missing)} not found; install Debian's packages nodejs and npm"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("web") / "web"
    shutil.copytree(WEB, folder, ignore=shutil.ignore_patterns("node_modules"))
    installed = subprocess.run(["npm", "ci"], cwd=folder, capture_output=True, text=True, check=False)
    assert installed.returncode == 0, installed.stderr
    return folder


@pytest.fixture(scope="module")
def seen(dev: Dev, node_scripts: Path) -> Json:
    """What a page saw, by scenario."""
    descriptors = node_scripts / "chatapi.binpb"
    build = [SCRIPTS / "buf", "build", "proto", "--as-file-descriptor-set", "--output", descriptors]
    subprocess.run(build, cwd=ROOT, check=True)
    page = ["node", "calls.mjs", descriptors, dev.endpoint, dev.token_of("page"), ORIGIN]
    done = subprocess.run(
        page, cwd=node_scripts, capture_output=True, text=True, timeout=PATIENCE, env=environment(), check=False
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def replies(events: list[Json]) -> list[Json]:
    return [event["reply"] for event in events if "reply" in event]


def text_of(events: list[Json]) -> str:
    return "".join(reply["delta"]["text"] for reply in replies(events) if "delta" in reply)


def stored_text(events: list[Json]) -> str:
    return str(events[-1]["reply"]["completed"]["message"]["parts"][0]["text"]["text"])


def test_a_unary_call(seen: Json) -> None:
    assert seen["unary"]["made"]["title"] == "From a page"
    assert seen["unary"]["got"] == seen["unary"]["made"]


def test_a_streaming_call_tells_the_reply_in_pieces(seen: Json) -> None:
    events = seen["serverStreaming"]
    assert events[0]["accepted"]["message"]["clientMessageId"] == "key"
    assert len([reply for reply in replies(events) if "delta" in reply]) > 1
    assert [reply["sequence"] for reply in replies(events)] == list(range(1, len(events)))
    assert text_of(events) == stored_text(events)


def test_a_page_that_was_left_finds_the_rest_of_its_reply(seen: Json) -> None:
    before, after = seen["resumed"]["before"], seen["resumed"]["after"]
    assert before[-1]["reply"]["sequence"] + 1 == after[0]["reply"]["sequence"]
    assert text_of(before + after) == stored_text(after)


@pytest.mark.parametrize("scenario", ["unknownConversation", "unknownConversationInAStream"])
def test_an_error_reaches_the_page_with_its_details(seen: Json, scenario: str) -> None:
    failure = seen[scenario]
    assert failure["code"] == "NotFound"
    details = {each["type"]: base64.b64decode(each["value"]) for each in failure["details"]}
    info = ErrorInfo.FromString(details["google.rpc.ErrorInfo"])
    resource = ResourceInfo.FromString(details["google.rpc.ResourceInfo"])
    assert (info.reason, info.domain) == ("CONVERSATION_NOT_FOUND", "chatrpc")
    assert resource.resource_name == info.metadata["id"]
    assert resource.resource_name in failure["message"]


@pytest.mark.parametrize("scenario", ["badToken", "badTokenForAStream"])
def test_a_bad_token_is_unauthenticated(seen: Json, scenario: str) -> None:
    assert seen[scenario]["code"] == "Unauthenticated"
    # A page that could not read the status would know nothing but this.
    assert not seen[scenario]["message"].startswith("HTTP")


def test_a_preflight_needs_no_token(dev: Dev) -> None:
    wanted = {"authorization", "content-type", "grpc-timeout", "x-grpc-web", "x-chatrpc-on-behalf-of", "x-user-agent"}
    answer = httpx.options(
        f"{dev.endpoint}/chatapi.v1.ChatService/SendMessage",
        headers={
            "origin": ORIGIN,
            "access-control-request-method": "POST",
            "access-control-request-headers": ",".join(sorted(wanted)),
        },
        trust_env=False,
    )
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert wanted <= set(answer.headers["access-control-allow-headers"].split(","))
    # Where a browser sends no cookies, it may also be given none.
    assert "access-control-allow-credentials" not in answer.headers


def test_the_lock_file_names_no_address() -> None:
    assert "resolved" not in (WEB / "package-lock.json").read_text()
