"""Who may ask the admin port for what, over real HTTP: token, host names, forged requests, how many may watch."""

from __future__ import annotations

import http.client
import json
import re
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from pydantic import SecretStr

from listener.daemon.admin.authenticator import (
    COOKIE,
    MOST_CLIENTS,
    MOST_SESSIONS,
    MOST_WRONG_TOKENS,
    PER_SECONDS,
    SESSION_SECONDS,
    Authenticator,
    FailedAttempts,
)
from listener.serving import HTTPRejection
from listener.settings import AdminSettings
from tests.product.page.browsing import TOKEN
from tests.stand import Stand, a_stand, until

BEHIND = ("/", "/healthz", "/metrics", "/api/status", "/events")
BEARER = {"Authorization": f"Bearer {TOKEN}"}
HTML = {"Accept": "text/html"}


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    body: str


def ask(stand: Stand, path: str, *, form: dict[str, str] | None = None, **headers: str) -> Answer:
    """Ask for a path, or post a form to it; ``_`` in names of headers stands for ``-``."""
    connection = http.client.HTTPConnection("127.0.0.1", stand.admin_port, timeout=20)
    try:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if form is not None:
            sent["Content-Type"] = "application/x-www-form-urlencoded"
        body = None if form is None else urlencode(form)
        connection.request("GET" if form is None else "POST", path, body, sent)
        answer = connection.getresponse()
        text = "" if answer.headers.get_content_type() == "text/event-stream" else answer.read().decode()
        return Answer(answer.status, dict(answer.headers), text)
    finally:
        connection.close()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """A daemon whose token comes from a file, with one URL parked."""
    with a_stand(tmp_path_factory.mktemp("guarded") / "stand") as stand:
        stand.put(stand.config.read_text().replace("[admin]", '[admin]\nhosts = ["status.example"]'))
        (stand.root / "token").write_text(f"{TOKEN}\n")
        stand.order("malformed:bad")
        with stand.daemon(LISTENER_ADMIN__TOKEN_FILE=str(stand.root / "token")):
            stand.write("bad.html")
            until(lambda: json.loads(ask(stand, "/api/status", **BEARER).body)["dead_letters"] == 1)
            yield stand


def signed_in(stand: Stand) -> tuple[str, str]:
    """Return the cookie of a new session, and its mark."""
    answer = ask(stand, "/sign-in", form={"token": TOKEN})
    assert answer.status == 303
    cookie = answer.headers["Set-Cookie"]
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= {part.strip() for part in cookie.split(";")}
    cookie = cookie.partition(";")[0]
    page = ask(stand, "/", Cookie=cookie)
    assert page.status == 200
    return cookie, re.findall(r'name="mark" value="(\w+)"', page.body)[0]


def test_with_a_token_only_probes_are_open(guarded: Stand) -> None:
    """Probes tell yes or no to anybody, everything else requires the token, and shows nothing before."""
    for path in ("/livez", "/readyz"):
        assert ask(guarded, path, Host="any.name").status == 200
    for path in BEHIND:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}, {"Cookie": "a=b"}):
            answer = ask(guarded, path, **headers)
            assert answer.status == 401
            assert "bad.html" not in answer.body
        assert ask(guarded, path, **BEARER).status == 200
    assert ask(guarded, "/metrics").headers["WWW-Authenticate"].startswith("Bearer")


def test_a_name_that_is_not_ours_is_refused(guarded: Stand) -> None:
    """A page elsewhere cannot make its own name point here: only addresses, localhost and configured names are."""
    cookie, _ = signed_in(guarded)
    for host in (
        "localhost",
        "LOCALHOST:9180",
        "127.0.0.1",
        "[::1]:9180",
        "10.1.2.3:80",
        "status.example",
        "status.example.",
    ):
        assert ask(guarded, "/", Host=host, Cookie=cookie).status == 200, host
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "", "[::1", "status.example:x"):
        for path in (*BEHIND, "/nothing"):
            assert ask(guarded, path, Host=host, Cookie=cookie).status == 421, (host, path)
    assert ask(guarded, "/metrics", Host="evil.example", **BEARER).status == 200


def test_a_decision_needs_session_mark_and_origin(guarded: Stand) -> None:
    """Each of the three alone is worth nothing; a bearer of the token needs neither."""
    cookie, mark = signed_in(guarded)
    other, foreign = signed_in(guarded)
    good = {"subject": "letter-0", "mark": mark}
    home = f"http://127.0.0.1:{guarded.admin_port}"
    for decision in ("retry", "discard", "refresh"):
        for form, headers in (
            (good, {}),
            (good, {"Cookie": other}),
            ({**good, "mark": foreign}, {"Cookie": cookie}),
            ({"subject": "letter-0"}, {"Cookie": cookie}),
            (good, {"Cookie": cookie, "Origin": "https://evil.example"}),
            (good, {"Cookie": cookie, "Origin": "null"}),
            (good, {"Cookie": cookie, "Sec_Fetch_Site": "cross-site"}),
            (good, {"Cookie": cookie, "Sec_Fetch_Site": "same-site"}),
            (good, {"Authorization": "Bearer wrong"}),
        ):
            assert ask(guarded, f"/{decision}", form=form, **headers).status in (401, 403), (decision, form, headers)
    assert ask(guarded, "/discard", form=good, Cookie=cookie, Origin=home, Sec_Fetch_Site="same-origin").status == 303
    assert ask(guarded, "/discard", form={"subject": "letter-0"}, **BEARER).status == 303
    assert json.loads(ask(guarded, "/api/status", **BEARER).body)["dead_letters"] == 1


def test_a_session_cannot_be_made_up(guarded: Stand) -> None:
    """Another session than one that was given, or a part of one, is none; a foreign page cannot sign anybody in."""
    cookie, _ = signed_in(guarded)
    name, _, value = cookie.partition("=")
    for forged in (value[:-1], value + "A", value[:-1] + "\u00e9", value.swapcase(), "", "..", "9" * 5000):
        assert ask(guarded, "/", Cookie=f"{name}={forged}").status == 401, forged
    assert ask(guarded, "/sign-in", form={"token": TOKEN}, Origin="https://evil.example").status == 403
    assert ask(guarded, "/sign-in", form={"token": "wrong"}).status == 403
    assert ask(guarded, "/sign-in", form={}).status == 403


def test_a_session_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """After twelve hours a genuine session is none any more; without a token there is none at all."""
    authenticator = Authenticator(AdminSettings(token=SecretStr(TOKEN)))
    request = with_session(authenticator.sign_in(TOKEN, "192.0.2.1"))
    assert authenticator.signed_in(request)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + SESSION_SECONDS + 1)
    assert not authenticator.signed_in(request)
    assert not authenticator.may_read(request)
    with pytest.raises(HTTPRejection):
        Authenticator(AdminSettings()).sign_in("", "192.0.2.1")


def with_session(session: str) -> web.Request:
    """Return a request with the cookie of a session."""
    return make_mocked_request("GET", "/", headers={"Cookie": f"{COOKIE}={session}"})


def test_sessions_are_bounded() -> None:
    """The oldest of too many ends; the others go on."""
    authenticator = Authenticator(AdminSettings(token=SecretStr(TOKEN)))
    requests = [with_session(authenticator.sign_in(TOKEN, "192.0.2.1")) for _ in range(MOST_SESSIONS + 1)]
    assert [authenticator.signed_in(request) for request in requests] == [False] + [True] * MOST_SESSIONS


def test_wrong_tokens_are_bounded_for_each_client() -> None:
    """After ten in a minute not even the right one is looked at; other clients, and the same one later, sign in."""
    authenticator = Authenticator(AdminSettings(token=SecretStr(TOKEN)))
    statuses = []
    for _ in range(MOST_WRONG_TOKENS + 3):
        with pytest.raises(HTTPRejection) as rejected:
            authenticator.sign_in("wrong", "2001:db8::1")
        statuses.append(rejected.value.status)
    assert statuses == [403] * MOST_WRONG_TOKENS + [429] * 3
    with pytest.raises(HTTPRejection) as rejected:
        authenticator.sign_in(TOKEN, "2001:db8::2")
    assert 0 < rejected.value.retry_after_seconds <= PER_SECONDS
    assert authenticator.sign_in(TOKEN, "2001:db8:0:1::1")
    failed = FailedAttempts()
    for at in range(MOST_WRONG_TOKENS):
        failed.count("a", float(at))
    assert failed.wait_seconds("a", 10.0) == PER_SECONDS - 10
    assert failed.wait_seconds("a", PER_SECONDS) == 0
    for number in range(MOST_CLIENTS):
        failed.count(str(number), 10.0)
    assert failed.wait_seconds("a", 10.0) == 0


def test_a_sign_out_ends_the_session_everywhere(guarded: Stand) -> None:
    """A copy of the cookie opens nothing any more, and a stream that was opened with it ends."""
    cookie, mark = signed_in(guarded)
    other, _ = signed_in(guarded)
    watching = http.client.HTTPConnection("127.0.0.1", guarded.admin_port, timeout=40)
    watching.request("GET", "/events", headers={"Cookie": cookie})
    stream = watching.getresponse()
    assert stream.readline().startswith(b"retry:")
    assert ask(guarded, "/sign-out", form={}, Cookie=cookie).status == 403
    assert ask(guarded, "/", Cookie=cookie).status == 200
    assert ask(guarded, "/sign-out", form={"mark": mark}, Cookie=cookie).status == 303
    assert ask(guarded, "/", Cookie=cookie).status == 401
    assert ask(guarded, "/refresh", form={"subject": "x", "mark": mark}, Cookie=cookie).status == 401
    assert ask(guarded, "/", Cookie=other).status == 200
    until(lambda: not stream.readline(), what="the stream ends")
    watching.close()


def test_numbers_of_a_visitor_are_bounded(guarded: Stand) -> None:
    """However long or strange a number is, the page is shown."""
    for count in ("9" * 5000, "-1", "1e9", "\u0661", "", "0x10"):
        assert ask(guarded, f"/?{urlencode({'said': 'retry', 'count': count})}", **BEARER).status == 200
    assert "Sent again: 7" in ask(guarded, "/?said=retry&count=7", **BEARER).body


def test_every_answer_is_closed_to_other_pages(guarded: Stand) -> None:
    """No framing, no sniffing, no caching, no script but our own, whose nonce is new each time."""
    nonces = set()
    for path in ("/livez", "/metrics", "/", "/nothing"):
        for headers in ({}, BEARER, HTML):
            answer = ask(guarded, path, **headers).headers
            assert answer["X-Content-Type-Options"] == "nosniff"
            assert answer["Cache-Control"] == "no-store"
            assert "default-src 'none'" in answer["Content-Security-Policy"]
            assert "frame-ancestors 'none'" in answer["Content-Security-Policy"]
            assert "unsafe" not in answer["Content-Security-Policy"]
            nonces |= set(re.findall("script-src 'nonce-([^']+)'", answer["Content-Security-Policy"]))
    assert len(nonces) >= 3
    assert ask(guarded, "/sign-in", form={"token": "x" * 100_000}).status == 413
    assert ask(guarded, "/refresh", form={"subject": "https://elsewhere.example/"}, **BEARER, **HTML).status == 400
    assert ask(guarded, "/refresh", form={"subject": "no url"}, **BEARER).status == 400


def test_only_so_many_watch(guarded: Stand) -> None:
    """The 33rd watcher is asked to come later; a place is free again once somebody leaves."""

    def watch() -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", guarded.admin_port, timeout=20)
        connection.request("GET", "/events", headers=BEARER)
        return connection

    with ExitStack() as watching:
        for _ in range(32):
            connection = watch()
            watching.callback(connection.close)
            answer = connection.getresponse()
            assert answer.status == 200
            assert answer.readline().startswith(b"retry:")
        late = ask(guarded, "/events", **BEARER)
        assert (late.status, late.headers["Retry-After"]) == (503, "30")
        assert ask(guarded, "/livez").status == 200
    until(lambda: ask(guarded, "/events", **BEARER).status == 200, what="a place is free")


def test_another_token_ends_every_session(tmp_path: Path) -> None:
    """A reload with another token: old sessions, bearers and watchers are out, the new token is in, no port moved."""
    with a_stand(tmp_path / "stand") as stand:
        token = stand.root / "token"
        token.write_text(TOKEN)
        with stand.daemon(LISTENER_ADMIN__TOKEN_FILE=str(token)) as process:
            cookie, _ = signed_in(stand)
            watching = http.client.HTTPConnection("127.0.0.1", stand.admin_port, timeout=40)
            watching.request("GET", "/events", headers={"Cookie": cookie})
            stream = watching.getresponse()
            assert stream.readline().startswith(b"retry:")
            token.write_text(f"another-{TOKEN}")
            process.send_signal(signal.SIGHUP)
            until(lambda: ask(stand, "/metrics", Authorization=f"Bearer another-{TOKEN}").status == 200)
            assert ask(stand, "/", Cookie=cookie).status == 401
            assert ask(stand, "/metrics", **BEARER).status == 401
            until(lambda: not stream.readline(), what="the stream ends")
            watching.close()


def test_the_token_is_nowhere(tmp_path: Path) -> None:
    """Neither logs nor status, metrics, effective settings or errors hold it, however wrong it is."""
    with a_stand(tmp_path / "stand") as stand:
        credentials = stand.root / "credentials"
        credentials.mkdir()
        (credentials / "admin.token").write_text(TOKEN)
        with stand.daemon(CREDENTIALS_DIRECTORY=str(credentials)) as process:
            assert ask(stand, "/metrics").status == 401
            reported = [ask(stand, path, **BEARER).body for path in ("/", "/healthz", "/metrics", "/api/status")]
            reported += [ask(stand, "/sign-in", form={"token": TOKEN + "x"}).body]
            process.terminate()
            reported += process.communicate(timeout=20)
        reported += stand.run("config", "show", LISTENER_ADMIN__TOKEN=TOKEN)[1:]
        status, *short = stand.run("config", "show", LISTENER_ADMIN__TOKEN=TOKEN[:15])
        assert status == 2
        assert not any(TOKEN[:15] in text for text in (*reported, *short))
        assert any('"***"' in text for text in reported)
