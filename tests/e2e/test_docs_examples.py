"""The examples of docs/clients.md, run as they stand there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from tests.e2e.stack import PATIENCE, ROOT, SCRIPTS, Dev, environment

BLOCKS = re.findall(r"^```\w+\n(.*?)^```$", (ROOT / "docs" / "clients.md").read_text(), re.MULTILINE | re.DOTALL)

# An example that is added is missed here until a test runs it.
ALICES_TOKEN, INSTALL_STUBS, WITH_STUBS, SERVICES_TOKEN, FOR_A_USER, ERRORS, TOOLS, WITH_CLIENT = BLOCKS[:8]
INSTALL_PAGE, PAGE, CALL, REPORT, EXPLAIN, BRANCH, ERASE = BLOCKS[8:]

# What a page does with the module of the example.
VISIT = """
import { openChat } from "./page.mjs";

const chat = openChat(...process.argv.slice(2));
const conversation = await chat.begin();
const shown = [];
const seen = await chat.say(conversation, "My sister lives in Lisbon.", (text, at) => shown.push({ text, at }));
const again = [];
await chat.resume({ replyId: seen.replyId }, (text) => again.push(text));
const rest = [];
await chat.resume(shown[1].at, (text) => rest.push(text));
const { stopped } = await chat.stop(seen.replyId);
const whole = shown.at(-1).text;
if (shown.length < 4 || !whole.includes("offline model")) throw new Error(`shown: ${JSON.stringify(shown)}`);
if (again.at(-1) !== whole) throw new Error(`told again: ${again.at(-1)}`);
if (shown[1].text + rest.at(-1) !== whole) throw new Error(`the rest: ${rest.at(-1)}`);
if (stopped) throw new Error("a finished reply was stopped");
"""


@pytest.fixture
def user() -> str:
    return f"reader-{uuid4().hex}"


def here(example: str, dev: Dev, user: str) -> str:
    """An example for the stack and the user of the test."""
    example = example.replace("127.0.0.1:8080", dev.edge).replace('"alice"', f'"{user}"')
    return example.replace("chatrpc token ", f"chatrpc token --data-dir {dev.data_dir} ").replace("alice", user)


def run(*command: object, cwd: Path = ROOT, **variables: str) -> str:
    env = environment(**variables)
    env["PATH"] = f"{SCRIPTS}:{env['PATH']}"
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=env,
        cwd=cwd,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def bash(*scripts: str, cwd: Path = ROOT, **variables: str) -> str:
    return run("bash", "-c", "set -euo pipefail\n" + "\n".join(scripts), cwd=cwd, **variables)


@pytest.fixture(scope="module")
def stubs_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has the stubs and what comes with them, and nothing else."""
    folder = tmp_path_factory.mktemp("stubs")
    uv = shutil.which("uv")
    assert uv is not None, "uv is not on the path; `pip install uv`"
    run(uv, "venv", "--python", sys.executable, folder / "venv")
    python = folder / "venv" / "bin" / "python"
    assert INSTALL_STUBS == "pip install ./gen\n"
    run(uv, "pip", "install", "--python", python, "./gen")
    return python


def test_the_stubs_bring_nothing_of_the_server(stubs_alone: Path) -> None:
    listed = run(shutil.which("uv") or "", "pip", "list", "--python", stubs_alone, "--format", "freeze")
    names = {line.partition("==")[0] for line in listed.split()}
    assert names == {"chatapi", "googleapis-common-protos", "grpcio", "protobuf", "typing-extensions"}


def test_a_service_talks_with_the_stubs_alone(dev: Dev, user: str, stubs_alone: Path) -> None:
    token = bash(here(ALICES_TOKEN, dev, user), "echo $CHATRPC_TOKEN").strip()
    assert "offline model" in run(stubs_alone, "-c", here(WITH_STUBS, dev, user), CHATRPC_TOKEN=token)
    assert len(WITH_STUBS.splitlines()) <= 25

    service = bash(here(SERVICES_TOKEN, dev, user), "echo $CHATRPC_TOKEN").strip()
    listed = run(stubs_alone, "-c", here(FOR_A_USER, dev, user), CHATRPC_TOKEN=service)
    assert len(listed.splitlines()) == 1


def test_errors_are_read_with_the_stubs_alone(dev: Dev, user: str, stubs_alone: Path) -> None:
    told = run(stubs_alone, "-c", here(ERRORS, dev, user), CHATRPC_TOKEN=dev.token_of(user))
    assert told.startswith("CONVERSATION_NOT_FOUND {'id': '01890000-0000-7000-8000-000000000000'} ")


def test_the_offline_model_answers_without_the_tools_that_it_is_offered(dev: Dev, user: str, stubs_alone: Path) -> None:
    assert "offline model" in run(stubs_alone, "-c", here(TOOLS, dev, user), CHATRPC_TOKEN=dev.token_of(user))


def test_the_client_talks(dev: Dev, user: str) -> None:
    told = run(sys.executable, "-c", here(WITH_CLIENT, dev, user), CHATRPC_TOKEN=dev.token_of(user))
    assert "offline model" in told
    assert re.search(r"\n\d+ passages were remembered\n$", told)


def test_a_page_talks(dev: Dev, user: str, tmp_path: Path) -> None:
    missing = [program for program in ("node", "npm") if shutil.which(program) is None]
    if missing:
        reason = f"{' and '.join(missing)} not found; install Debian's packages nodejs and npm"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    (tmp_path / "package.json").write_text('{"private": true, "type": "module"}')
    bash(INSTALL_PAGE, cwd=tmp_path, CHATRPC=str(ROOT))
    (tmp_path / "page.mjs").write_text(PAGE)
    (tmp_path / "visit.mjs").write_text(VISIT)
    run("node", "visit.mjs", dev.endpoint, dev.token_of(user), cwd=tmp_path)


def test_an_engineer_calls_by_hand(dev: Dev, user: str) -> None:
    token = dev.token_of(user)
    called = bash(here(CALL, dev, user), CHATRPC_TOKEN=token)
    made, listed = re.findall(r'"id": "(.*)"', called)
    assert made == listed
    told = bash(
        *(here(example, dev, user) for example in (CALL, REPORT, EXPLAIN, ERASE)),
        CHATRPC_TOKEN=token,
        CHATRPC_ENDPOINT=dev.endpoint,
        CONVERSATION=made,
    )
    report = told[told.index('"report"') :]
    assert f'"conversationId": "{made}"' in report
    assert '"chatrpc-offline"' in report
    assert report.count("Model: chatrpc-offline; embeddings by") == 2
    assert '"messages": "2"' in report
    assert '"memory": "CONVERSATION_MEMORY_TEMPORARY"' in report


def test_a_conversation_branches_by_hand(dev: Dev, user: str) -> None:
    token = dev.token_of(user)
    [made, _] = re.findall(r'"id": "(.*)"', bash(here(CALL, dev, user), CHATRPC_TOKEN=token))
    told = bash(
        *(here(example, dev, user) for example in (CALL, REPORT, BRANCH)), CHATRPC_TOKEN=token, CONVERSATION=made
    )
    told = told[told.index('"accepted"') :]
    assert told.count('"siblings"') == 1
    reply = re.findall(r'"headMessageId": "(.*)"', told)[0]
    assert told.index('"siblings"') < told.index(f'"headMessageId": "{reply}"')
    heads = re.findall(r'"headMessageId": "(.*)"', told)
    assert len(heads) == 3
    assert heads[2] == reply != heads[1]
    assert '"reload": true' in told
