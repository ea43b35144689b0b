"""``init``: from an empty folder to the first refresh without a file written in an editor."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from listener.cli import init, init_questions
from listener.configuration import adopt_credentials
from listener.credentials import read_credential
from tests.cli.fixtures import Command
from tests.product.kubernetes.rendering import documents
from tests.stand import KEY_ID, KEYS, SECRET, Stand, fetch, free_port, until

VARIABLES = (*KEYS, "CLOUDFLARE_API_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "LISTENER_CONFIG")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No variable of the machine counts; return the folder that is served."""
    for name in (*VARIABLES, "CREDENTIALS_DIRECTORY", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)  # and what the code sets is taken back
    (tmp_path / "www").mkdir()
    return tmp_path / "www"


def flags(source: object, **more: str) -> list[str]:
    """Return the arguments that answer everything."""
    given = {"source": str(source), "base-url": "https://www.example.com/", "cdn": "alibaba-cdn", **more}
    return ["init", *(part for name, value in given.items() for part in (f"--{name}", value)), "--yes"]


def answer(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    """Type these lines."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))


def written(folder: Path) -> dict[str, Any]:
    """Return the configuration in a folder."""
    return tomllib.loads((folder / "listener.toml").read_text())


def test_two_answers_are_enough_where_the_key_is_set(
    command: Command, stand: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Source and base URL; the CDN is proposed. The key goes into files that only their owner can read."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("LISTENER_CONFIG")
    answer(monkeypatch, str(stand.tree), f"{stand.edge}", "")
    os.umask(umask := os.umask(0o002))
    status, out, err = command("init", "--endpoint", stand.emulator.api_url)
    assert status == 0, out + err
    assert umask == os.umask(umask)
    made = written(tmp_path)
    assert made["sources"] == {"www": {"type": "filesystem", "path": str(stand.tree)}}
    assert made["targets"] == {"cdn": {"type": "alibaba-cdn", "endpoint": stand.emulator.api_url}}
    assert made["sites"] == [{"source": "www", "target": "cdn", "base_urls": [f"{stand.edge}/"]}]
    assert f'base_urls = ["{stand.edge}/"]' in (tmp_path / "listener.toml").read_text().splitlines()
    keys = tmp_path / "credentials"
    assert stat.S_IMODE(keys.stat().st_mode) == 0o700
    for name, value in (("access-key-id", KEY_ID), ("access-key-secret", SECRET)):
        assert stat.S_IMODE((keys / name).stat().st_mode) == 0o600
        assert (keys / name).read_text() == f"{value}\n"
    assert SECRET not in out + err + (tmp_path / "listener.toml").read_text()
    assert "credentials: access key" in out
    assert out.splitlines()[-4:] == [
        "next:",
        *(f"  {line}" for line in (f"{_name()} run", f"{_name()} status", f"{_name()} backfill --dry-run")),
    ]


def _name() -> str:
    return init._command()


def test_the_key_is_found_next_to_the_configuration(
    command: Command, stand: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After `init` no variable is needed: a refresh, from any folder."""
    stand.write("a.html")
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("LISTENER_CONFIG")
    file = str(tmp_path / "below" / "my.toml")
    given = {"base-url": stand.edge, "endpoint": stand.emulator.api_url, "config": file}
    assert command(*flags(stand.tree, **given))[0] == 0
    for name in KEYS:
        monkeypatch.delenv(name)
    monkeypatch.chdir("/")
    status, out, err = command("refresh", "--wait", "--config", file, stand.url("a.html"))
    assert (status, "complete" in out) == (0, True), out + err


def test_an_emulator_needs_no_key(command: Command, tmp_path: Path, environment: Path) -> None:
    """Where nothing is set, both sides of a rehearsal use the same one; its tasks are looked at sooner."""
    status, out, _ = command(*flags(environment, endpoint="http://127.0.0.1:9"))
    assert (status, "failed" in out) == (1, True)  # nobody answers there
    assert f"  {_name()} check" in out.splitlines()
    assert (tmp_path / "credentials/access-key-id").read_text() == "rehearsal\n"
    assert written(tmp_path)["verifier"]["first_seconds"] == 2


def test_a_key_is_asked_for_and_never_an_argument(
    command: Command, tmp_path: Path, environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The secret is read without being shown; the id is no secret."""
    asked = []

    def hidden(question: str) -> str:
        asked.append(question)
        return SECRET

    monkeypatch.setattr(init, "_check", lambda _: False)
    monkeypatch.setattr(init_questions.getpass, "getpass", hidden)
    answer(monkeypatch, KEY_ID)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    status, out, _ = command(*flags(environment)[:-1])
    assert status == 0, out
    assert [("ALIBABA_CLOUD_ACCESS_KEY_SECRET" in one) for one in asked] == [True]
    assert (tmp_path / "credentials/access-key-secret").read_text() == f"{SECRET}\n"
    assert "secret" not in command("init", "--help")[1].lower().replace("secrets", "")


def test_missing_keys_are_named_with_their_files(command: Command, tmp_path: Path, environment: Path) -> None:
    """The configuration is written, the exit status is not 0, and the place of each key is shown."""
    status, out, _ = command(*flags(environment))
    assert status == 1
    assert str(tmp_path / "credentials" / "access-key-secret") in out
    assert not (tmp_path / "credentials").exists()
    assert (tmp_path / "listener.toml").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--yes"], "--source is missing"),
        (["--source", "/nowhere", "--yes"], "/nowhere is not a folder"),
        (["--source", "ftp://a/b", "--yes"], "is no folder, s3://BUCKET or oss://BUCKET"),
        (["--source", "s3:///", "--yes"], "is no folder, s3://BUCKET or oss://BUCKET"),
        (["--source", "www", "--yes"], "--base-url is missing"),
        (["--source", "www", "--base-url", "ftp://x", "--yes"], "is no URL"),
        (["--source", "www", "--base-url", "https://x/", "--cdn", "cloudflair", "--yes"], "cloudflare"),
        (["--source", "www", "--base-url", "https://x/", "--cdn", "http-purge", "--yes"], "--endpoint is missing"),
        (["--source", "www", "--base-url", "https://x/", "--set", "plan=pro", "--yes"], "plan is not asked for"),
        (["--source", "oss://b", "--base-url", "https://x/", "--yes"], "--set region=VALUE is missing"),
        (["--source", "www", "--base-url", "https://x/?a=b", "--yes"], "base_urls"),
        (["--source", "www", "--base-url", "https://x/", "--config", "www/listener.toml", "--yes"], "would be served"),
        (["--systemd", "--container", "--yes"], "give one of"),
        (["--group", "deploy", "--yes"], "--group needs --systemd"),
        (["--systemd", "--config", "/etc/cdn-listener/shop.toml", "--yes"], "the unit reads"),
    ],
)
def test_a_wrong_answer_writes_nothing(command: Command, tmp_path: Path, arguments: list[str], words: str) -> None:
    """Exit status 2 and what is wrong."""
    status, _, err = command("init", *arguments)
    assert (status, words in err) == (2, True), err
    assert sorted(path.name for path in tmp_path.rglob("*") if path.name != "stand") == ["www"]


def test_nothing_is_overwritten(command: Command, tmp_path: Path, environment: Path) -> None:
    """Neither a configuration nor a key that is there; without answers it ends instead of waiting."""
    (tmp_path / "listener.toml").write_text("# mine")
    status, _, err = command(*flags(environment))
    assert (status, "exists already" in err) == (2, True)
    assert (tmp_path / "listener.toml").read_text() == "# mine"
    (tmp_path / "listener.toml").unlink()
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials/access-key-id").write_text("mine")
    command(*flags(environment, endpoint="http://127.0.0.1:9"))
    assert (tmp_path / "credentials/access-key-id").read_text() == "mine"


def test_nobody_to_ask(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --yes and without answers it ends and names the option."""
    answer(monkeypatch)
    status, _, err = command("init")
    assert (status, "--source is missing" in err) == (2, True)


@pytest.mark.parametrize(
    ("given", "target", "source", "prefix", "files"),
    [
        (
            {"source": "s3://site/public", "cdn": "cloudflare", "set": "plan=pro"},
            {"type": "cloudflare", "plan": "pro"},
            {"type": "listing", "url": "s3://site/public/"},
            "public/",
            {"cloudflare_api_token", "aws"},
        ),
        (
            {"source": "oss://site", "cdn": "alibaba-cdn", "set": "region=oss-cn-hangzhou"},
            {"type": "alibaba-cdn"},
            {"type": "listing", "url": "oss://site", "region": "oss-cn-hangzhou"},
            None,
            {"access-key-id", "access-key-secret"},
        ),
        (
            {"source": "www", "cdn": "http-purge", "endpoint": "http://10.0.0.5:6081, http://10.0.0.6:6081"},
            {"type": "http-purge", "servers": ["http://10.0.0.5:6081", "http://10.0.0.6:6081"]},
            None,
            None,
            set(),
        ),
    ],
)
def test_each_storage_and_cdn_has_its_own_questions(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, str], target: dict[str, Any],
    source: dict[str, Any] | None, prefix: str | None, files: set[str],
) -> None:  # fmt: skip
    """They come from the plugin; keys of AWS go into one file of profiles, which Amazon's own chain then reads."""
    monkeypatch.setattr(init, "_check", lambda _: False)
    for name in (*KEYS, "CLOUDFLARE_API_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testkey")
    status, out, err = command(*flags(**given))
    assert status == 0, out + err
    made = written(tmp_path)
    assert made["targets"]["cdn"] == target
    assert source is None or made["sources"]["bucket"] == source
    assert made["sites"][0].get("prefix") == prefix
    assert {path.name for path in tmp_path.glob("credentials/*")} == files
    for name in (*KEYS, "CLOUDFLARE_API_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    adopt_credentials(tmp_path / "listener.toml", os.environ)
    if "cloudflare_api_token" in files:
        assert read_credential("CLOUDFLARE_API_TOKEN", os.environ) == "testkey"
    if "aws" in files:
        from botocore.session import Session

        assert Session().get_credentials().access_key == "testkey"


def test_credentials_that_one_may_not_read_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user of the command on the machine of a service: the service's keys are no reason to fail."""
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials/admin.token").write_text("secret-of-the-service")
    monkeypatch.setattr("listener.configuration.os.access", lambda *_: False)
    environ: dict[str, str] = {}
    adopt_credentials(tmp_path / "listener.toml", environ)
    assert environ == {}
    environ = {"CREDENTIALS_DIRECTORY": "/run/credentials/x"}
    monkeypatch.undo()
    adopt_credentials(tmp_path / "listener.toml", environ)
    assert environ == {"CREDENTIALS_DIRECTORY": "/run/credentials/x"}


def test_a_container_gets_a_compose_file(command: Command, tmp_path: Path, environment: Path) -> None:
    """With the tree, the configuration, a place for the state, and a token for the port that is open to outside."""
    status, out, _ = command(*flags(environment), "--container")
    assert status == 1, out  # no key yet
    folder = tmp_path / "cdn-listener"
    (service,) = yaml.safe_load((folder / "compose.yaml").read_text())["services"].values()
    assert service["read_only"] is True
    assert f"{environment}:{environment}:ro" in service["volumes"]
    assert f"{folder}:/etc/cdn-listener:ro" in service["volumes"]
    assert len((folder / "credentials/admin.token").read_text()) > 32
    assert stat.S_IMODE((folder / "credentials/admin.token").stat().st_mode) == 0o600
    user = int(service["user"].partition(":")[0])
    assert {(folder / "state").stat().st_uid, (folder / "credentials/admin.token").stat().st_uid} == {user}
    assert written(folder)["admin"]["listen"] == "[::]:9180"


@pytest.mark.parametrize(("source", "kind"), [("/var/www/site", "StatefulSet"), ("s3://site", "Deployment")])
def test_kubernetes_gets_a_folder(command: Command, tmp_path: Path, source: str, kind: str) -> None:
    """A sidecar for files, a service of its own for a bucket; each file of the folder is there."""
    status, out, err = command(*flags(source), "--kubernetes")
    assert status == 1, out + err
    folder = tmp_path / "cdn-listener" / "kubernetes"
    (kustomization,) = documents(folder / "kustomization.yaml")
    for name in [*kustomization["resources"], *kustomization["configMapGenerator"][0]["files"]]:
        assert (folder / name).exists()
    kinds = [one["kind"] for path in folder.glob("*.yaml") for one in documents(path)]
    assert kind in kinds
    if kind == "StatefulSet":
        assert "mountPath: /var/www/site" in (folder / "statefulset.yaml").read_text()
    assert "kubectl create secret generic cdn-listener" in out


OWN_SETTINGS = {"cloudfront": "distribution=EDFDVBD6EXAMPLE", "alibaba-esa": "site=127.0.0.1"}


@pytest.mark.slow
@pytest.mark.parametrize("cdn", ["alibaba-cdn", "alibaba-dcdn", "alibaba-esa", "cloudflare", "cloudfront"])
def test_three_commands_lead_to_the_first_refresh(tmp_path: Path, environment: Path, cdn: str) -> None:
    """An emulator, `init`, a refresh: the edge is fresh within two minutes, for every CDN, and no key is needed."""
    api, edge = free_port(), free_port()
    (environment / "a.html").write_text("old")
    began = time.monotonic()
    variables = {**os.environ, "LISTENER_ADMIN__LISTEN": f"127.0.0.1:{free_port()}"}

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-m", "listener", *arguments], cwd=tmp_path, env=variables)

    places = ["--api", f"127.0.0.1:{api}", "--edge", f"127.0.0.1:{edge}"]
    emulator = start("emulate", "--cdn", cdn, "--origin", "www", *places)
    page = f"http://127.0.0.1:{edge}/a.html"
    try:
        until(lambda: fetch(page) == (200, "old"))
        given = {"base-url": f"http://127.0.0.1:{edge}/", "endpoint": f"http://127.0.0.1:{api}", "cdn": cdn}
        if cdn in OWN_SETTINGS:
            given["set"] = OWN_SETTINGS[cdn]
        assert start(*flags("www", **given)).wait(60) == 0
        (environment / "a.html").write_text("new")
        assert start("refresh", page).wait(60) == 0
        until(lambda: fetch(page) == (200, "new"))
    finally:
        emulator.terminate()
        emulator.wait(60)
    assert time.monotonic() - began < 120
