"""``check`` as a doctor: what it finds, what it says to do, and that it changes nothing; what is printed to paste."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from listener.contracts import CheckState, ProvidesSetup
from listener.sources.mns import MnsSettings, MnsSource
from tests.sources.mns.fake_mns import FakeMns
from tests.sources.mns.oss_messages import bodies
from tests.sources.mns.sdk import Sdk
from tests.sources.queue.backends import reading
from tests.waiting import until

pytestmark = pytest.mark.looptime(False)
MakeSource = Callable[..., MnsSource]
ENDPOINT = "https://1000000000000001.mns.cn-hangzhou-internal.aliyuncs.com"


async def probed(source: MnsSource) -> dict[str, Any]:
    """Return what check found, by the last word of its subject."""
    return {check.subject.removeprefix("events: "): check for check in await source.check()}


async def test_check_of_a_correct_setup(service: FakeMns, make_source: MakeSource) -> None:
    """Everything that can be tried is; what cannot stands there with how to find out. No message is touched."""
    await service.send(*bodies("abc"))
    found = await probed(make_source())
    assert found.pop("event rule").state is CheckState.WARNING
    assert {check.state for check in found.values()} == {CheckState.OK}, found
    assert "3 messages wait" in found["queue"].message
    assert found["visibility"].message == "30 s"
    assert not service.in_flight
    assert service.queue.deleted == []
    assert set(service.calls) == {"GetQueueAttributes", "BatchDeleteMessage", "ChangeMessageVisibility"}


async def test_the_rule_that_fills_the_queue_cannot_be_seen_and_how_to_see_it_is_said(make_source: MakeSource) -> None:
    """The command is printed, for this queue."""
    hint = (await probed(make_source()))["event rule"].hint
    assert "ListEventRules" in hint
    assert '"EndpointValue": "events"' in hint


async def test_check_finds_queue_settings_that_lose_events(service: FakeMns, make_source: MakeSource) -> None:
    """Short retention, small messages, short visibility, a delay: each with what to set."""
    queue = service.queue
    queue.retention_seconds, queue.max_message_bytes, queue.visibility_seconds, queue.delay_seconds = 60, 1024, 1, 5
    found = await probed(make_source())
    for subject in ("retention", "message size", "visibility", "delay"):
        assert found[subject].state is CheckState.WARNING, subject
        assert found[subject].hint


@pytest.mark.parametrize(
    ("action", "subject"), [("BatchDeleteMessage", "deletion"), ("ChangeMessageVisibility", "release")]
)
async def test_check_finds_a_missing_permission(
    service: FakeMns, make_source: MakeSource, action: str, subject: str
) -> None:
    """With the policy's command; a permission that is only comfortable is a warning."""
    service.denied = {action, "GetQueueAttributes"}
    found = await probed(make_source())
    assert found[subject].state is CheckState.FAILED
    assert "--print-setup" in found[subject].hint
    assert found["queue"].state is CheckState.WARNING


@pytest.mark.parametrize(
    ("change", "subject", "words"),
    [
        ({"queue": "none"}, "queue", "QueueNotExist"),
        ({"endpoint": "http://127.0.0.1:9"}, "queue", "127.0.0.1:9"),
        ({"environment": {}}, "credentials", "ALIBABA_CLOUD_ACCESS_KEY_ID"),
    ],
)
async def test_a_failure_that_stops_everything_is_reported_alone(
    make_source: MakeSource, change: dict[str, Any], subject: str, words: str
) -> None:
    """No queue, no service, no key: one failure with what to do, and not five more of the same."""
    found = await probed(make_source(**change))
    failed = {name: check for name, check in found.items() if check.state is CheckState.FAILED}
    assert set(failed) == {subject}
    assert words in failed[subject].message
    assert failed[subject].hint
    assert list(found)[-1] == subject


@pytest.mark.parametrize(
    ("ahead", "state"), [(0, CheckState.OK), (-120, CheckState.WARNING), (3600, CheckState.FAILED)]
)
async def test_the_clock_is_compared(service: FakeMns, make_source: MakeSource, ahead: int, state: CheckState) -> None:
    """Also where it is so far off that every call is refused."""
    service.ahead = ahead
    found = await probed(make_source())
    assert found["clock"].state is state


def test_what_to_paste_is_made_from_the_settings() -> None:
    """Queue, rule and policy for just this queue and these buckets; nothing is asked, no secret is in it."""
    source = MnsSource("oss", MnsSettings(endpoint=ENDPOINT, queue="cdn-events", buckets=("site", "other")))
    assert isinstance(source, ProvidesSetup)
    text = source.setup()
    blocks = [block for block in text.split("\n\n") if block.strip()]
    assert all(block.lstrip().startswith("#") for block in blocks)
    commands = [shlex.split(line) for line in text.splitlines() if line.startswith("aliyun ")]
    assert [words[2] for words in commands] == ["CreateQueue", "CreateEventRule", "ListEventRules"]
    rule = dict(zip(commands[1][3::2], commands[1][4::2], strict=True))
    assert rule["--region"] == "cn-hangzhou"
    assert json.loads(rule["--Endpoint"]) == {"EndpointType": "queue", "EndpointValue": "cdn-events"}
    prefixes = [match["Prefix"] for matches in json.loads(rule["--MatchRules"]) for match in matches]
    assert prefixes == ["site/", "other/"]
    types = json.loads(rule["--EventTypes"])
    assert "ObjectRemoved:DeleteObjects" in types
    assert not any(name.endswith(("*", "UploadPart")) for name in types)


def test_the_policy_is_the_least_that_the_source_needs() -> None:
    """The actions that it calls, on this queue alone."""
    source = MnsSource("oss", MnsSettings(endpoint=ENDPOINT, queue="cdn-events"))
    text = source.setup()
    policy = json.loads(text[text.index("{\n") : text.rindex("}\n") + 1])
    allowed = {action for statement in policy["Statement"] for action in statement["Action"]}
    assert allowed == {
        "mns:BatchReceiveMessage", "mns:BatchDeleteMessage", "mns:ChangeMessageVisibility", "mns:GetQueueAttributes",
    }  # fmt: skip
    resources = {resource for statement in policy["Statement"] for resource in statement["Resource"]}
    queue = "acs:mns:cn-hangzhou:1000000000000001:/queues/cdn-events"
    assert resources == {queue, f"{queue}/messages"}


async def test_the_policy_is_enough(service: FakeMns, make_source: MakeSource) -> None:
    """With all other actions denied a message is read, deleted and released, and check is content."""
    every = {"ReceiveMessage", "DeleteMessage", "PeekMessage", "BatchPeekMessage", "SendMessage", "BatchSendMessage"}
    service.denied = every
    await service.send(*bodies("ab"))
    async with reading(make_source()):
        await until(lambda: len(service.queue.deleted) == 2)
    assert CheckState.FAILED not in {check.state for check in await make_source().check()}
    client = Sdk(service.url)
    with pytest.raises(Exception, match="AccessDenied"):
        await client.send("a")
    client.close()


def test_what_the_endpoint_does_not_contain_is_printed_in_brackets() -> None:
    """A private name reports neither region nor account."""
    address = MnsSettings(endpoint="http://mns.intern:8080", queue="q").address
    assert address.resource == "acs:mns:<REGION>:<ACCOUNT>:/queues/q"


@pytest.mark.parametrize(
    "wrong",
    [
        {"wait_seconds": 31},
        {"queue": "a/b"},
        {"queue": ""},
        {"queue": "q?x=y"},
        {"endpoint": "ftp://h"},
        {"endpoint": "https://user:pass@h"},
        {"endpoint": "https://h/path"},
        {"format": "gcs"},
        {"access_key_secret": "s"},
        {"surprise": 1},
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    """A name that could become another request, a wait that the service does not know, a secret in the file."""
    with pytest.raises(ValidationError):
        MnsSettings(**{"endpoint": ENDPOINT, "queue": "q", **wrong})
