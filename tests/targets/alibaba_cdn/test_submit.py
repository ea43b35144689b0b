"""Submitting a batch: what goes over the wire, and what each failure means for quota."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from listener.alibaba.signature import canonical_query, verify_acs3, verify_v1
from listener.contracts import evicts_directories
from listener.errors import (
    BatchRejected,
    BatchTooLarge,
    Misconfigured,
    NotSent,
    OutcomeUnknown,
    QuotaExhausted,
    Throttled,
    Unavailable,
    WindowFull,
)
from listener.refresh import RefreshKind
from listener.targets.alibaba_cdn import AlibabaCdn
from tests.keys import KEYS
from tests.targets.alibaba_cdn.recording_api import NOW, Answer, Api, Received, StandingClock, refused

FILE, DIRECTORY, PREFETCH = RefreshKind.FILE, RefreshKind.DIRECTORY, RefreshKind.PREFETCH
URL = "https://www.example.com/a%20b/%E4%B8%AD.txt?x=1&y=%2B"
MakeTarget = Callable[..., AlibabaCdn]
Elapsed = Callable[..., Any]


def verified(request: Received) -> bool:
    """Return whether a request verifies as the service would do it, by whichever signature it carries."""
    if dict(request.query).get("Signature"):
        return (
            verify_v1(method=request.method, query=request.query, form=request.form, access_key_secret="testsecret")
            is None
        )
    path = request.target.partition("?")[0]
    return (
        verify_acs3(
            method=request.method,
            path=path,
            query=request.query,
            headers=request.headers,
            body=request.body,
            access_key_secret="testsecret",
        )
        is None
    )


@pytest.mark.parametrize("signature", ["acs3-hmac-sha256", "hmac-sha1"])
@pytest.mark.parametrize("version", ["2018-05-10", "2014-11-11"])
@pytest.mark.parametrize("token", ["", "tok/en+=="])
@pytest.mark.parametrize("kind", [FILE, DIRECTORY, PREFETCH])
async def test_what_is_sent_verifies(
    api: Api, make_target: MakeTarget, signature: str, version: str, token: str, kind: RefreshKind
) -> None:
    """Every request verifies from its raw bytes, in both signatures and versions, with temporary keys too."""
    environment = {**KEYS, "ALIBABA_CLOUD_SECURITY_TOKEN": token}
    target = make_target(signature=signature, api_version=version, environment=environment)
    urls = ["https://www.example.com/a%20b/%E4%B8%AD~*'()/", "https://www.example.com/a+b%2Bc/"]
    receipt = await target.submit(kind, urls, force=True)
    assert receipt.task_ids == ("17",)
    (request,) = api.received
    assert verified(request)
    assert request.params["ObjectPath"].split("\n") == urls
    assert (dict(request.query).get("Version") or request.header("x-acs-version")) == version


async def test_a_refresh_is_a_form_and_a_prefetch_a_query(api: Api, make_target: MakeTarget) -> None:
    """A refresh of a thousand URLs fits; a prefetch has no body and no content type at all."""
    target = make_target(prefetch={"area": "overseas", "l2_preload": True, "with_header": {"Accept-Encoding": ["br"]}})
    await target.submit(FILE, [URL], force=True)
    await target.submit(PREFETCH, [URL], force=True)
    refresh, prefetch = api.received
    assert (refresh.query, refresh.form) == ([], [("ObjectPath", URL), ("ObjectType", "File")])
    assert refresh.header("content-type") == "application/x-www-form-urlencoded"
    assert prefetch.target == f"/?{canonical_query(prefetch.query)}", "sent as it was signed, character by character"
    assert (prefetch.body, prefetch.header("content-type"), prefetch.action) == (b"", None, "PushObjectCache")
    assert dict(prefetch.query) == {
        "Area": "overseas",
        "L2Preload": "true",
        "ObjectPath": URL,
        "WithHeader": '{"Accept-Encoding":["br"]}',
    }


@pytest.mark.parametrize(
    ("kind", "version", "force", "sent"),
    [
        (DIRECTORY, "2018-05-10", True, {"ObjectType": "Directory", "Force": "true"}),
        (DIRECTORY, "2018-05-10", False, {"ObjectType": "Directory"}),
        (DIRECTORY, "2014-11-11", True, {"ObjectType": "Directory"}),
        (FILE, "2018-05-10", True, {"ObjectType": "File"}),
        (RefreshKind.IGNORE_PARAMS, "2018-05-10", True, {"ObjectType": "IgnoreParams", "Force": "true"}),
    ],
)
async def test_force_is_sent_where_it_means_something(
    api: Api, make_target: MakeTarget, kind: RefreshKind, version: str, force: bool, sent: dict[str, str]
) -> None:
    """Files are always evicted and the first API version knows no Force: only then it is left out."""
    target = make_target(api_version=version)
    assert evicts_directories(target) is (version == "2018-05-10")
    await target.submit(kind, ["http://h/d/"], force=force)
    assert api.received[0].params == {"ObjectPath": "http://h/d/", **sent}


async def test_the_word_for_ignore_params_can_be_set(api: Api, make_target: MakeTarget) -> None:
    """The vendor's pages disagree on it, so an operator can choose."""
    await make_target(ignore_params_type="ExQuery").submit(RefreshKind.IGNORE_PARAMS, ["http://h/a"], force=False)
    assert api.received[0].params["ObjectType"] == "ExQuery"


@pytest.mark.parametrize(
    "url",
    [
        "http://h/a\nhttp://other/b",
        "http://h/a\r\nhttp://other/b",
        "http://h/a b",
        "http://h/a\tb",
        "http://h/a\x00",
        "http://h/中",
        "http://h/\udcff",
        "http://h/a\\b",
        "http://h/a#b",
        "ftp://h/a",
        "h/a",
        "",
        "http://h/" + "a" * 1016,
    ],
)
@pytest.mark.parametrize("kind", list(RefreshKind))
async def test_a_url_that_could_become_another_request_is_never_sent(
    api: Api, target: AlibabaCdn, kind: RefreshKind, url: str
) -> None:
    """Not by a bug elsewhere either: the batch is refused before anything is written, and can be split."""
    with pytest.raises(BatchRejected) as caught:
        await target.submit(kind, ["http://h/fine/", url], force=True)
    assert api.received == []
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("url", ["http://h/a", "http://h/a/?x=1", "http://h/a?/"])
async def test_only_a_directory_is_sent_as_one(api: Api, target: AlibabaCdn, url: str) -> None:
    """A directory ends with a slash and has no query."""
    with pytest.raises(BatchRejected):
        await target.submit(DIRECTORY, [url], force=True)
    assert api.received == []


async def test_a_batch_that_cannot_fit_is_not_sent(api: Api, target: AlibabaCdn, make_target: MakeTarget) -> None:
    """Too many URLs, too many domains, or a prefetch too long for a request's URL: halve it."""
    batches: list[tuple[RefreshKind, list[str]]] = [
        (FILE, [f"http://h/{number}" for number in range(1001)]),
        (DIRECTORY, [f"http://h/{number}/" for number in range(101)]),
        (FILE, [f"http://h{number}/" for number in range(11)]),
        (PREFETCH, [f"http://h/{'%E4%B8%AD' * 50}{number}" for number in range(20)]),
    ]
    for kind, urls in batches:
        with pytest.raises(BatchTooLarge):
            await target.submit(kind, urls, force=True)
    with pytest.raises(Misconfigured, match="2014-11-11"):
        await make_target(api_version="2014-11-11").submit(RefreshKind.IGNORE_PARAMS, ["http://h/a"], force=False)
    with pytest.raises(ValueError, match="no URL"):
        await target.submit(FILE, [], force=True)
    assert api.received == []


async def test_a_prefetch_batch_within_its_bytes_is_sent(api: Api, target: AlibabaCdn) -> None:
    """A batch of the length that the limits tell fits into a request's URL, non-ASCII names included."""
    bytes_ = target.limits[PREFETCH].batch_bytes
    assert bytes_ is not None
    url = "https://www.example.com/" + "%E4%B8%AD" * 20
    count = bytes_ // (len(quote(url, safe="")) + 3)
    await target.submit(PREFETCH, [url] * count, force=False)
    assert len(api.received[0].target) < 8_192
    with pytest.raises(BatchTooLarge):
        await target.submit(PREFETCH, [url] * (count + 1), force=False)


async def test_a_seen_nonce_is_sent_again(api: Api, target: AlibabaCdn) -> None:
    """It surely spent nothing: a new nonce, a new signature, the same batch."""
    api.answers = [refused("SignatureNonceUsed", 503), refused("SignatureNonceUsed")]
    receipt = await target.submit(FILE, [URL], force=False)
    assert receipt.task_ids == ("17",)
    assert len({request.header("x-acs-signature-nonce") for request in api.received}) == 3
    assert len({request.body for request in api.received}) == 1
    assert all(verified(request) for request in api.received)


async def test_the_wait_is_what_the_answer_requests_and_some_jitter(
    api: Api, target: AlibabaCdn, elapsed: Elapsed
) -> None:
    """x-acs-retry-after is in milliseconds, and nothing is read before."""
    api.answers = [refused("Throttling", 503, x_acs_retry_after="7500")]
    api.default = Answer(fields={"Tasks": [], "TotalCount": "0"})
    _, seconds = await elapsed(target.tasks(["1"]))
    assert 7.5 <= seconds <= 8.5


async def test_a_second_try_keeps_the_limit_a_second(api: Api, make_target: MakeTarget) -> None:
    """A try after a refusal is a call too: it waits for its place like any other."""
    target = make_target(limits={"calls_per_second": 1})
    api.answers = [refused("SignatureNonceUsed"), refused("SignatureNonceUsed")]
    await target.admit(FILE, [URL])
    await target.submit(FILE, [URL], force=False)
    assert [round(at - api.times[0]) for at in api.times] == [0, 1, 2]


@pytest.mark.parametrize("code", ["Throttling", "Throttling.User"])
async def test_a_throttled_refresh_is_given_back(api: Api, target: AlibabaCdn, code: str) -> None:
    """The caller learns how long to wait, and looks again whether it is still to be sent: one call."""
    api.default = refused(code, 503)
    with pytest.raises(Throttled) as error:
        await target.submit(FILE, [URL], force=False)
    assert error.value.retry_after_seconds == 1.0
    assert len(api.received) == 1


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (refused("Throttling", x_acs_retry_after="31000"), Throttled),
        (refused("TooMany.Refresh"), Throttled),
        (refused("PreloadQueueFull", 403), Throttled),
        (refused("QuotaPerMinuteExceeded.Refresh"), WindowFull),
        (refused("QuotaExceeded.Refresh"), QuotaExhausted),
        (refused("InvalidObjectPath.Malformed"), BatchRejected),
        (refused("SingleRequest.OverLimit"), BatchTooLarge),
        (refused("ServiceBusy", 403), Unavailable),
        (refused("SignatureDoesNotMatch"), Misconfigured),
        (refused("Forbidden.RAM", 403), Misconfigured),
        (Answer(302, {}, {"Location": "http://127.0.0.1:1/"}), Misconfigured),
    ],
)
async def test_everything_else_is_for_the_caller_at_once(
    api: Api, target: AlibabaCdn, elapsed: Elapsed, answer: Answer, error: type[NotSent]
) -> None:
    """One try, no wait: longer waits, splitting and stopping are decided where the ledger is."""
    api.default = answer
    raised, seconds = await elapsed(target.submit(FILE, [URL], force=False))
    assert type(raised) is error
    assert (len(api.received), seconds) == (1, 0)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(fault="reset"),
        Answer(fault="close"),
        Answer(fault="hang"),
        refused("InternalError", 500),
        refused("ServiceUnavailable", 503),
        Answer(502, raw=b"<html>bad gateway</html>"),
        Answer(503, raw=b""),
        Answer(504, {}),
        Answer(200, raw=b"<html>welcome</html>"),
        Answer(200, {"RequestId": "R"}),
        Answer(202, {"RefreshTaskId": "1"}),
        Answer(200, raw=b"{", headers={"Content-Length": "100"}, fault=""),
    ],
    ids=["reset", "close", "time-out", "500", "503", "502", "503-empty", "504", "no-json", "no-task", "202", "cut-off"],
)
async def test_what_may_have_been_accepted_is_never_sent_again(api: Api, target: AlibabaCdn, answer: Answer) -> None:
    """Once the request was written only a clear refusal counts as one: the outcome is unknown, and one try is all."""
    api.default = answer
    with pytest.raises(OutcomeUnknown):
        await target.submit(FILE, [URL], force=False)
    assert len(api.received) == 1


async def test_an_idle_connection_that_dies_makes_no_second_request(
    api: Api, target: AlibabaCdn, elapsed: Elapsed
) -> None:
    """A reset on a reused connection is unknown too: the HTTP library must not try again by itself."""
    await target.submit(FILE, [URL], force=False)
    api.answers = [Answer(fault="reset")]
    with pytest.raises(OutcomeUnknown):
        await target.submit(FILE, [URL], force=False)
    assert len(api.received) == 2


async def test_no_connection_means_not_sent(api: Api, make_target: MakeTarget) -> None:
    """A refused connection surely spent nothing, and the message names the endpoint."""
    target = make_target(endpoint="http://127.0.0.1:1")
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
        await target.submit(FILE, [URL], force=False)


async def test_a_time_out_ends_a_call_that_hangs(api: Api, target: AlibabaCdn, elapsed: Elapsed) -> None:
    """No call waits longer than the setting says."""
    api.default = Answer(fault="hang")
    raised, seconds = await elapsed(target.submit(FILE, [URL], force=False))
    assert isinstance(raised, OutcomeUnknown)
    assert seconds == pytest.approx(30, abs=1)


async def test_an_expired_token_is_renewed_once(api: Api, make_target: MakeTarget) -> None:
    """A key that was rotated outside is read again, and the request signed with it."""
    environment = {**KEYS, "ALIBABA_CLOUD_SECURITY_TOKEN": "old"}
    target = make_target(environment=environment)
    await target.submit(FILE, [URL], force=False)
    environment["ALIBABA_CLOUD_SECURITY_TOKEN"] = "new"
    api.answers = [refused("InvalidSecurityToken.Expired", 403)]
    await target.submit(FILE, [URL], force=False)
    assert [request.header("x-acs-security-token") for request in api.received] == ["old", "old", "new"]


async def test_an_expired_token_that_stays_stops(api: Api, make_target: MakeTarget) -> None:
    """The same token again would fail again; and a new one is tried only once."""
    environment = {**KEYS, "ALIBABA_CLOUD_SECURITY_TOKEN": "old"}
    target = make_target(environment=environment)
    api.default = refused("InvalidSecurityToken.Expired", 403)
    with pytest.raises(Misconfigured):
        await target.submit(FILE, [URL], force=False)
    assert len(api.received) == 1
    environment["ALIBABA_CLOUD_SECURITY_TOKEN"] = "new"
    with pytest.raises(Misconfigured):
        await target.submit(FILE, [URL], force=False)
    assert len(api.received) == 3


async def test_secrets_stay_out_of_errors(api: Api, make_target: MakeTarget) -> None:
    """A service that echoes the key, the token or the string to sign finds no way into our messages."""
    target = make_target(environment={**KEYS, "ALIBABA_CLOUD_SECURITY_TOKEN": "tok/en+=="})
    echo = "testsecret tok/en+== tok%2Fen%2B%3D%3D server string to sign is:POST&%2F&AccessKeyId%3Dtestid"
    api.default = refused("SignatureDoesNotMatch", message=echo)
    with pytest.raises(Misconfigured) as caught:
        await target.submit(FILE, [URL], force=False)
    shown = f"{caught.value!r} {caught.value} {caught.value.hint} {target.client.__dict__}"
    assert not any(secret in shown for secret in ("testsecret", "tok/en", "tok%2Fen", "AccessKeyId%3D"))


async def test_a_wrong_clock_is_named_with_its_skew(api: Api, make_target: MakeTarget) -> None:
    """The answer's Date reports how far off the clock is; the operator reads it."""
    api.default = refused("InvalidTimeStamp.Expired")
    with pytest.raises(Misconfigured, match="1020 s ahead of the CDN's"):
        await make_target(clock=StandingClock(NOW + 1020)).submit(FILE, [URL], force=False)


async def test_a_target_can_be_closed_at_any_time(api: Api, make_target: MakeTarget) -> None:
    """Closing twice is safe, and a closed target opens again when it is used again."""
    target = make_target()
    await target.close()
    await target.submit(FILE, [URL], force=False)
    await target.close()
    await target.close()
    await target.submit(FILE, [URL], force=False)
    assert len(api.received) == 2
