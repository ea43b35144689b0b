"""What is set, and what is printed: addresses, settings, and ``check --print-setup``; nothing is called."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from pydantic import ValidationError

from listener.cli import main
from listener.contracts import CheckState, ProvidesSetup
from listener.sources.sqs import SqsSettings, SqsSource
from listener.sources.sqs.boto import make_client
from listener.sources.sqs.checks import Rule, missing_events, senders, sends_from
from listener.sources.sqs.settings import address_of


@pytest.fixture
def command() -> Iterator[Callable[..., int]]:
    """The command line; it sets up logging to this test's own stderr, which is taken back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield lambda *arguments: main(list(arguments))
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


CONFIG = """
[sources.events]
type = "sqs"
queue_url = "https://sqs.cn-north-1.amazonaws.com.cn/111122223333/site-events"
buckets = ["site"]
[sources.www]
type = "filesystem"
path = "/srv/www"
[targets.cdn]
type = "alibaba-cdn"
[[sites]]
source = "events"
target = "cdn"
base_urls = ["https://www.example.com/"]
"""


HOSTS = {
    "sqs.eu-central-1.amazonaws.com": "eu-central-1",
    "sqs.eu-central-1.api.aws": "eu-central-1",
    "sqs-fips.us-gov-west-1.amazonaws.com": "us-gov-west-1",
    "sqs-fips.us-east-1.api.aws": "us-east-1",
    "sqs.cn-north-1.amazonaws.com.cn": "cn-north-1",
    "sqs.cn-north-1.api.amazonwebservices.com.cn": "cn-north-1",
    "sqs.eusc-de-east-1.amazonaws.eu": "eusc-de-east-1",
    "eu-west-1.queue.amazonaws.com": "eu-west-1",
    "queue.amazonaws.com": "us-east-1",
    "vpce-0a1b.sqs.eu-west-1.vpce.amazonaws.com": "eu-west-1",
    "vpce-0a1b-eu-west-1a.sqs.eu-west-1.vpce.amazonaws.com": "eu-west-1",
    "sqs.eu-central-1.amazonaws.com:8443": "eu-central-1",
    "127.0.0.1:4566": "us-east-1",
    "[::1]:4566": "us-east-1",
    "queue.internal": "us-east-1",
}
"""Public, dual-stack, FIPS, sovereign, legacy, private and stand-in hosts, with the region that each names."""


@pytest.mark.parametrize(("host", "region"), HOSTS.items())
def test_a_queues_url_gives_region_account_and_endpoint(host: str, region: str) -> None:
    """The host that stands there is the one to call; what is set besides wins."""
    found = address_of(f"https://{host}/111122223333/e.fifo")
    assert (found.region, found.account, found.name) == (region, "111122223333", "e.fifo")
    assert found.endpoint == f"https://{host}"
    assert found.is_fifo
    assert found.is_aws is ("amazon" in host or "api.aws" in host)
    other = address_of(f"https://{host}/1/e", region="ap-south-1", endpoint_url="http://there")
    assert (other.region, other.endpoint, other.account, other.is_fifo) == ("ap-south-1", "http://there", "", False)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.looptime(False)
async def test_the_host_of_the_queue_is_called(scheme: str, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An emulator also serves the bucket's notifications there; AWS does not."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    url = f"{scheme}://{host}/111122223333/e"
    settings = SqsSettings.model_validate({"queue_url": url})
    called: list[str] = []

    def stop(request: Any, **_: Any) -> None:
        called.append(request.url)
        raise ConnectionError

    client = make_client(settings)
    client.meta.events.register("before-send.sqs.*", stop)
    with contextlib.suppress(ConnectionError):
        client.receive_message(QueueUrl=url)
    client.close()
    assert [url.rstrip("/") for url in called] == [f"{scheme}://{host}"]
    with contextlib.closing(make_client(settings, "s3")) as s3:
        assert (s3.meta.endpoint_url == f"{scheme}://{host}") is not settings.address.is_aws


def test_the_partition_of_a_region_is_known() -> None:
    """China and the government clouds have names of their own in every resource name."""
    assert address_of("https://sqs.cn-north-1.amazonaws.com.cn/111122223333/e").arn.startswith("arn:aws-cn:sqs:")
    assert address_of("https://sqs.us-gov-west-1.amazonaws.com/111122223333/e").partition == "aws-us-gov"
    assert address_of("http://127.0.0.1:1/e").arn == "arn:aws:sqs:us-east-1:<ACCOUNT>:e"


@pytest.mark.parametrize(
    "table",
    [
        {"queue_url": "events"},
        {"queue_url": "https://sqs.eu-central-1.amazonaws.com/"},
        {"queue_url": "https://user:secret@sqs.eu-central-1.amazonaws.com/111122223333/e"},
        {"queue_url": "http://[broken/e"},
        {"queue_url": "http://h/e", "wait_seconds": 21},
        {"queue_url": "http://h/e", "visibility_seconds": 43_201},
        {"queue_url": "http://h/e", "max_held_messages": 9},
        {"queue_url": "http://h/e", "format": "xml"},
        {"queue_url": "http://h/e", "transport": "boto3"},
        {"queue_url": "http://h/e", "aws_secret_access_key": "abc"},
        {"queue_url": "http://h/e", "unknown": 1},
    ],
)
def test_wrong_settings_are_refused(table: dict[str, object]) -> None:
    """No queue, values that the service does not take, keys that belong elsewhere, words that mean nothing."""
    with pytest.raises(ValidationError):
        SqsSettings(**table)  # type: ignore[arg-type]


def test_a_key_in_the_file_is_refused_with_the_place_where_it_belongs() -> None:
    """Not "unknown key", but the variable that is meant for it."""
    with pytest.raises(ValidationError, match="AWS_SECRET_ACCESS_KEY in the environment"):
        SqsSettings(queue_url="http://h/e", aws_secret_access_key="abc")  # type: ignore[call-arg]


def test_print_setup_prints_what_to_paste(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: Callable[..., int]
) -> None:
    """Policies and rules with the names of this configuration, from the command line."""
    config = tmp_path / "listener.toml"
    config.write_text(CONFIG)
    assert command("check", "--config", str(config), "--print-setup", "events") == 0
    out = capsys.readouterr().out
    for words in (
        "arn:aws-cn:sqs:cn-north-1:111122223333:site-events", "arn:aws-cn:s3:::site", "s3:LifecycleExpiration:*",
        "sqs:ReceiveMessage", "put-bucket-notification-configuration --bucket site",
    ):  # fmt: skip
        assert words in out


def test_print_setup_of_another_source(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: Callable[..., int]
) -> None:
    """A source that needs nothing elsewhere says so; a name that is none leads to the nearest one."""
    config = tmp_path / "listener.toml"
    config.write_text(CONFIG)
    assert command("check", "--config", str(config), "--print-setup", "www") == 0
    assert "needs no setup" in capsys.readouterr().out
    assert command("check", "--config", str(config), "--print-setup", "event") == 2
    assert "Did you mean events?" in capsys.readouterr().err
    assert isinstance(SqsSource("events", SqsSettings(queue_url="http://h/e")), ProvidesSetup)


@pytest.mark.looptime(False)
async def test_check_warns_of_a_fifo_queue_and_of_who_does_not_answer(aws_keys: None) -> None:
    """A warning for the kind of queue, a failure for the silence, each with what to do."""
    settings = SqsSettings(queue_url="http://127.0.0.1:1/111122223333/events.fifo")
    fifo, silent = await SqsSource("events", settings).check()
    assert (fifo.state, silent.state) == (CheckState.WARNING, CheckState.FAILED)
    assert "cannot be reached" in silent.message
    assert fifo.hint
    assert silent.hint


QUEUE = "arn:aws:sqs:eu-central-1:111122223333:e"


@pytest.mark.parametrize(
    ("statement", "may_send", "from_site", "from_anybody"),
    [
        ({"Principal": {"Service": "s3.amazonaws.com"}, "Action": "sqs:SendMessage"}, {"s3.amazonaws.com"}, True, True),
        ({"Principal": "*", "Action": "SQS:*", "Resource": "*"}, {"*"}, True, True),
        ({"Principal": {"AWS": "*"}, "Action": ["sqs:SendMessage"]}, {"*"}, True, True),
        ({"Principal": {"Service": "sns.amazonaws.com"}, "Action": "sqs:Send*"}, {"sns.amazonaws.com"}, False, False),
        ({"Principal": "*", "Action": "sqs:ReceiveMessage"}, set(), False, False),
        ({"Principal": "*", "Action": "sqs:SendMessage", "Resource": QUEUE + "x"}, set(), False, False),
        ({"Effect": "Deny", "Principal": "*", "Action": "sqs:SendMessage"}, set(), False, False),
        (
            {"Principal": "*", "Action": "sqs:*", "Condition": {"ArnLike": {"aws:SourceArn": "arn:aws:s3:::si*"}}},
            {"*"}, True, False,
        ),
        (
            {"Principal": "*", "Action": "sqs:*", "Condition": {"ArnEquals": {"AWS:SourceArn": ["arn:aws:s3:::b"]}}},
            {"*"}, False, False,
        ),
    ],
)  # fmt: skip
def test_who_may_send_by_a_policy(
    statement: dict[str, object], may_send: set[str], from_site: bool, from_anybody: bool
) -> None:
    """Services, wildcards, other queues, other actions, denials and conditions."""
    policy = json.dumps({"Statement": {"Effect": "Allow", "Resource": QUEUE, **statement}})
    assert senders(policy, QUEUE) == may_send
    assert sends_from(policy, QUEUE, "arn:aws:s3:::site") == (from_site, from_anybody)


@pytest.mark.parametrize("policy", ["", "no JSON", "[]", '{"Statement": 1}', '{"Statement": [1]}'])
def test_a_strange_policy_lets_nobody_send(policy: str) -> None:
    """What cannot be read as a policy permits nothing, and breaks nothing."""
    assert senders(policy, QUEUE) == set()


def test_single_events_make_up_a_family() -> None:
    """Both kinds of removal named one by one are as good as the wildcard; one of them is not."""
    every = ("s3:ObjectCreated:*", "s3:ObjectRemoved:Delete", "s3:ObjectRemoved:DeleteMarkerCreated")
    assert missing_events([Rule("r", every, ())]) == ["s3:LifecycleExpiration:*"]
    assert "s3:ObjectRemoved:*" in missing_events([Rule("r", every[:2], ())])
