"""What people and programs are told when the stack is ready."""

from __future__ import annotations

import json
import re
from pathlib import Path

from chatrpc.dev.ready import Ready

PROTOS = Path(__file__).parents[2] / "proto" / "chatapi" / "v1"
READY = Ready(
    endpoint="http://127.0.0.1:8080",
    direct_endpoint="127.0.0.1:50051",
    token="aaa.bbb.ccc",
    database_url="postgresql://postgres@/chatrpc?host=%2Fdata&port=5432",
    admin_endpoint="http://127.0.0.1:9901",
)


def test_programs_get_one_json_line() -> None:
    line = READY.json_line()
    assert "\n" not in line
    assert json.loads(line) == {
        "endpoint": "http://127.0.0.1:8080",
        "direct_endpoint": "127.0.0.1:50051",
        "token": "aaa.bbb.ccc",
        "database_url": "postgresql://postgres@/chatrpc?host=%2Fdata&port=5432",
        "admin_endpoint": "http://127.0.0.1:9901",
    }


def test_people_get_all_addresses_and_three_commands() -> None:
    banner = READY.banner()
    for value in json.loads(READY.json_line()).values():
        assert value in banner
    assert re.findall(r"^  uv run (\w+ \w+)", banner, re.MULTILINE) == ["chatrpc chat", "buf curl", "buf curl"]


def test_the_commands_call_methods_that_the_contract_has() -> None:
    called = re.findall(r"/chatapi\.v1\.(\w+)/(\w+)", READY.banner())
    assert called
    contract = "\n".join(path.read_text() for path in PROTOS.glob("*_service.proto"))
    for service, method in called:
        assert f"service {service} " in contract
        assert f"rpc {method}(" in contract
