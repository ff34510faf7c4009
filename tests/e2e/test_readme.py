"""The README's commands, run as they stand there."""

from __future__ import annotations

import json
import re
import subprocess
from uuid import uuid4

from tests.e2e.stack import PATIENCE, ROOT, SCRIPTS, Dev, environment

BLOCKS = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)


def bash(script: str, **variables: str) -> str:
    env = environment(**variables)
    env["PATH"] = f"{SCRIPTS}:{env['PATH']}"
    # `uv run` would do no more than find what is on the path already.
    prelude = 'set -euo pipefail\nuv() { [ "$1" = run ] && shift; "$@"; }\n'
    done = subprocess.run(
        ["bash", "-c", prelude + script],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=env,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_two_commands_come_first() -> None:
    assert BLOCKS[:2] == ["uv run chatrpc dev\n", "uv run pytest\n"]


def test_the_commands_of_the_doors_work(dev: Dev) -> None:
    user = f"reader-{uuid4().hex}"

    def here(script: str) -> str:
        """The script, for the stack of the tests instead of one on the default port and directory."""
        script = script.replace("token --user alice", f"token --user {user} --data-dir {dev.data_dir}")
        return script.replace("chatrpc chat ", f"chatrpc chat --endpoint {dev.endpoint} ").replace(
            "http://127.0.0.1:8080", dev.endpoint
        )

    terminal, setup, create, send, rest = map(here, BLOCKS[2:])
    spoken = bash(f"printf 'Hello.\\n/context\\n/quit\\n' | {terminal}")
    assert "chatrpc-offline" in spoken

    listed = bash(setup)
    assert listed in (ROOT / "README.md").read_text()
    functions = setup.replace("grpc --list-services $chatrpc", "")
    conversation = json.loads(bash(functions + create))["conversation"]["id"]
    sent = bash(functions + send, CONVERSATION=conversation)
    assert '"completed"' in sent
    answered = bash(functions + rest, CONVERSATION=conversation)
    assert '"requestId": "1"' in answered
    assert answered.count('"completed"') == 1
    assert '"clientMessageId": "m2"' in answered
    assert '"RETRIEVAL_OUTCOME_' in answered
    assert '"status": "SERVING"' in answered
