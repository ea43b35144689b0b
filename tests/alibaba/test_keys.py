"""The access key: where it is looked for, in which order, and what is said when it is not there."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from listener.alibaba import ChainKeys, EnvironmentKeys
from listener.alibaba.signature import Credentials
from listener.errors import ConfigurationError

ID, SECRET, TOKEN = (f"ALIBABA_CLOUD_{part}" for part in ("ACCESS_KEY_ID", "ACCESS_KEY_SECRET", "SECURITY_TOKEN"))


async def test_a_key_comes_from_the_environment() -> None:
    """Blanks around it do not belong to it; without a token the key is a lasting one."""
    assert await EnvironmentKeys({ID: " id\n", SECRET: "secret"}).read() == Credentials("id", "secret", None)
    assert await EnvironmentKeys({ID: "id", SECRET: "s", TOKEN: "t"}).read() == Credentials("id", "s", "t")


async def test_a_key_comes_from_files(tmp_path: Path) -> None:
    """A variable wins over its file, and that over systemd's credentials directory; a rotated file counts."""
    (tmp_path / "named").write_text("from-file\n")
    (tmp_path / "alibaba_cloud_access_key_secret").write_text("from-directory\n")
    (tmp_path / "alibaba_cloud_access_key_id").write_text("hidden")
    keys = EnvironmentKeys({f"{ID}_FILE": str(tmp_path / "named"), "CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert await keys.read() == Credentials("from-file", "from-directory")
    (tmp_path / "named").write_text("rotated")
    assert (await keys.read()).access_key_id == "rotated"
    both = {ID: "plain", f"{ID}_FILE": str(tmp_path / "named"), SECRET: "s"}
    assert (await EnvironmentKeys(both).read()).access_key_id == "plain"


async def test_a_second_account_has_variables_of_its_own() -> None:
    """The prefix of the variables is a setting."""
    keys = EnvironmentKeys({"OTHER_ACCESS_KEY_ID": "id", "OTHER_ACCESS_KEY_SECRET": "s", ID: "other"}, "OTHER")
    assert (await keys.read()).access_key_id == "id"


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({}, f"{ID} and {SECRET}"),
        ({ID: "", SECRET: "  "}, f"{ID} and {SECRET}"),
        ({ID: "id"}, SECRET),
        ({ID: "id", SECRET: "two words"}, SECRET),
        ({ID: "id\x00", SECRET: "s"}, ID),
        ({ID: "id", f"{SECRET}_FILE": "/nowhere/at/all"}, f"{SECRET}_FILE"),
        ({ID: "id", f"{SECRET}_FILE": "/"}, f"{SECRET}_FILE"),
    ],
)
async def test_what_is_missing_is_named(environment: dict[str, str], words: str) -> None:
    """The error names the variable, and the hint how to set it; never a value."""
    with pytest.raises(ConfigurationError) as caught:
        await EnvironmentKeys(environment).read()
    assert words in f"{caught.value} {caught.value.hint}"
    assert "two words" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize("content", [b"\xff\xfe", b"x" * 20_000])
async def test_a_file_that_is_no_key_is_refused(tmp_path: Path, content: bytes) -> None:
    """A wrong path (a binary, a log) is said so, not sent."""
    path = tmp_path / "key"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=f"{ID}_FILE"):
        await EnvironmentKeys({f"{ID}_FILE": str(path), SECRET: "s"}).read()


class Chain:
    """Stands for the client of alibabacloud-credentials."""

    def __init__(self, *answers: Any) -> None:
        """Give these in turn; an exception is raised."""
        self.answers = list(answers)

    def get_credential(self) -> Any:
        """Return or raise the next one."""
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(access_key_id=answer[0], access_key_secret=answer[1], security_token=answer[2])


async def test_the_chain_gives_temporary_keys() -> None:
    """What the chain gives is used as it is."""
    keys = ChainKeys(lambda: Chain(("id", "secret", "token"), ("id", "secret", "")))
    assert await keys.read() == Credentials("id", "secret", "token")
    assert await keys.read() == Credentials("id", "secret", None)


@pytest.mark.parametrize("answer", [OSError("unable to get credentials\nfrom any"), ("", "", ""), ("id", None, None)])
async def test_a_chain_without_a_key_says_so(answer: Any) -> None:
    """Whatever its providers raise, or an empty key, becomes one error on one line."""
    with pytest.raises(ConfigurationError) as caught:
        await ChainKeys(lambda: Chain(answer)).read()
    assert str(caught.value).isprintable()
    assert caught.value.hint


async def test_the_real_chain_reads_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alibaba's own package, loaded for real, finds the variables of this process."""
    from alibabacloud_credentials.provider import env as _env  # noqa: F401

    module = sys.modules["alibabacloud_credentials.utils.auth_util"]
    for name, value in {"environment_access_key_id": "id", "environment_access_key_secret": "secret"}.items():
        monkeypatch.setattr(module, name, value)
    monkeypatch.setenv(ID, "id")
    monkeypatch.setenv(SECRET, "secret")
    assert await ChainKeys().read() == Credentials("id", "secret")


async def test_a_missing_extra_is_named_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only who chose the chain needs the package, and gets the line that installs it."""
    monkeypatch.setitem(sys.modules, "alibabacloud_credentials.client", None)
    with pytest.raises(ConfigurationError) as caught:
        await ChainKeys().read()
    assert caught.value.hint == "pip install 'cdn-listener[credentials]'"
