"""The tutorial: its commands run in their order, and print what the page shows."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests import ROOT
from tests.cli.test_howto import FAST, PROGRAM
from tests.stand import DEADLINE_SECONDS, fetch, free_port, until

pytestmark = pytest.mark.slow
PAGE = (ROOT / "docs/start/tutorial.md").read_text("utf-8")
STEP = re.compile(r"^```sh\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)
STARTS = {
    "emulate": ("--api 127.0.0.1:8700 --edge 127.0.0.1:8701 --task-seconds 0.2", "http://127.0.0.1:8700/_emulator"),
    "run": ("", "http://127.0.0.1:9180/readyz"),
}
"""Commands that go on until they are stopped: options for this test, and what is served once they are up."""


def comparable(text: str) -> list[str]:
    """Return the lines without what differs from run to run: times, numbers with a unit of time, ports, spaces."""
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME", text)
    text = re.sub(r"\b\d+(?:\.\d+)? (ms|s)\b", r"N \1", text)
    text = re.sub(r"127\.0\.0\.1:\d+", "ADDRESS", text)
    text = re.sub(r"process \d+|\b\d{13}\b", "ID", text)
    return [" ".join(line.split()) for line in text.splitlines()]


def shows(output: str, expected: str) -> bool:
    """Return whether the lines of the page follow one another in the output; … stands for any number of lines."""
    lines, at, is_gap = comparable(output), 0, False
    for line in comparable(expected):
        if line == "…":
            is_gap = True
            continue
        if line not in (lines[at:] if is_gap else lines[at : at + 1]):
            return False
        at, is_gap = lines.index(line, at) + 1, False
    return is_gap or at == len(lines)


class Reader:
    """Somebody who types the commands of the page, at a machine whose ports may be taken."""

    def __init__(self, home: Path) -> None:
        self.home = home
        ports = {port: free_port() for port in ("8700", "8701", "9180")}
        self.texts = {f":{known}": f":{port}" for known, port in ports.items()} | {"/home/me": str(home)}
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("LISTENER_", "ALIBABA_"))}
        self.variables = {**clean, **{f"LISTENER_{name}": value for name, value in FAST.items()}}
        self.variables |= {"HOME": str(home), "PATH": f"{PROGRAM}:{clean['PATH']}"}
        self.variables["LISTENER_ADMIN__LISTEN"] = self.here("127.0.0.1:9180")

    def here(self, text: str) -> str:
        """Return the text with this home and these ports."""
        for old, new in self.texts.items():
            text = text.replace(old, new)
        return text

    def output(self, script: str) -> str:
        """Run a block to its end; return what it prints."""
        command = ["sh", "-ec", self.here(script).replace("curl ", "curl -s ")]
        done = subprocess.run(
            command, env=self.variables, capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    @contextmanager
    def running(self, script: str, name: str) -> Iterator[str]:
        """Run a block that goes on until it is stopped; yield what it printed until it was up."""
        more, ready = STARTS[name]
        url, log = self.here(ready), self.home / f"{name}.log"
        exact = self.here(f"{script.strip()} {more}").replace("&& ", "&& exec ")
        with log.open("w") as out:
            process = subprocess.Popen(["sh", "-ec", exact], env=self.variables, stdout=out, stderr=out)
        try:
            until(lambda: fetch(url)[0] == 200 or process.poll() is not None, what=script)
            assert process.poll() is None, log.read_text()
            yield log.read_text()
        finally:
            process.terminate()
            process.wait(60)


def test_the_commands_print_what_the_page_shows(tmp_path: Path) -> None:
    """Each block of commands, and each output after one; ``status`` is repeated until the daemon noticed the files."""
    reader, steps = Reader(tmp_path), STEP.findall(PAGE)
    assert len(steps) > 8
    with ExitStack() as stack:
        for script, text in steps:
            expected = reader.here(text)
            if started := re.search(r"&& cdn-listener (emulate|run)", script):
                printed = stack.enter_context(reader.running(script, started[1]))
                assert set(comparable(expected)) <= set(comparable(printed))
            elif script.splitlines()[1:] == ["cdn-listener status"]:
                until(partial(lambda script, text: shows(reader.output(script), text), script, expected), what=expected)
            else:
                printed = reader.output(script)
                assert not expected or shows(printed, expected), f"{script}\n{printed}\nand not:\n{expected}"
