"""Setup texts to paste at the senders; made from the settings alone, without secrets."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Final

from listener.sources.webhook.settings import WebhookSettings

__all__ = ["setup_text"]

EVENTS: Final = ("s3:ObjectCreated:*", "s3:ObjectRemoved:*")
ANY_HOST: Final = ("0.0.0.0", "::", "*")  # noqa: S104 - compared with


def setup_text(name: str, settings: WebhookSettings) -> str:
    """Return a block for each sender that these settings could serve."""
    url, buckets = _url(settings), settings.buckets or ("<bucket>",)
    blocks: list[str] = []
    if settings.token is not None or not (settings.secret or settings.sns_topics or settings.eventbridge_accounts):
        makers = (_ceph,) if settings.opaque_data else (_minio, _seaweedfs, _api_destination, _script)
        blocks += [maker(name, settings, url, buckets) for maker in makers]
    if settings.secret is not None:
        blocks.append(_hmac(settings, url))
    blocks += [_sns(topic, url) for topic in settings.sns_topics]
    if settings.eventbridge_accounts:
        blocks.append(_eventbridge(url, buckets))
    return "\n\n".join(blocks) + "\n"


def _url(settings: WebhookSettings) -> str:
    if settings.public_url:
        return settings.public_url
    host, port = settings.address
    scheme = "https" if settings.tls_certificate else "http"
    shown = "<host>" if host in ANY_HOST else f"[{host}]" if ":" in host else host
    return f"{scheme}://{shown}:{port}{settings.path}"


def _block(where: str, lines: Iterator[str] | Sequence[str]) -> str:
    return "\n".join([f"# {where}", *lines])


def _minio(name: str, settings: WebhookSettings, url: str, buckets: Sequence[str]) -> str:  # noqa: ARG001
    ident = "".join(each if each.isalnum() else "_" for each in name).upper()
    mc = [f"mc event add <alias>/{bucket} arn:minio:sqs::{ident}:webhook --event put,delete" for bucket in buckets]
    return _block(
        "MinIO: environment of the server (the directory keeps events while we are away), and a rule for each bucket",
        [
            f"MINIO_NOTIFY_WEBHOOK_ENABLE_{ident}=on",
            f"MINIO_NOTIFY_WEBHOOK_ENDPOINT_{ident}={url}",
            f"MINIO_NOTIFY_WEBHOOK_AUTH_TOKEN_{ident}=<token>",
            f"MINIO_NOTIFY_WEBHOOK_QUEUE_DIR_{ident}=/var/lib/minio/events",
            *mc,
        ],
    )


def _seaweedfs(name: str, settings: WebhookSettings, url: str, buckets: Sequence[str]) -> str:  # noqa: ARG001
    prefixes = ", ".join(f'"/buckets/{bucket}/"' for bucket in buckets)
    return _block(
        "SeaweedFS: notification.toml of the filer. It sends each event once: compare with a scan now and then",
        [
            "[notification.webhook]",
            "enabled = true",
            f'endpoint = "{url}"',
            'bearer_token = "<token>"',
            "timeout_seconds = 10",
            "max_retries = 10",
            f"path_prefixes = [{prefixes}]",
        ],
    )


def _api_destination(name: str, settings: WebhookSettings, url: str, buckets: Sequence[str]) -> str:
    is_own = settings.credential_header.lower() != "authorization"
    header, value = (settings.credential_header, "<token>") if is_own else ("Authorization", "Bearer <token>")
    key = json.dumps({"ApiKeyAuthParameters": {"ApiKeyName": header, "ApiKeyValue": value}})
    pattern = {
        "source": ["aws.s3"],
        "detail-type": ["Object Created", "Object Deleted"],
        "detail": {"bucket": {"name": list(buckets)}},
    }
    return _block(
        "Amazon EventBridge: an API destination (https only), and a rule; the bucket must send to EventBridge",
        [
            f"aws events create-connection --name {name} --authorization-type API_KEY --auth-parameters '{key}'",
            (
                f"aws events create-api-destination --name {name} --connection-arn <connection arn>"
                f" --http-method POST --invocation-endpoint {url}"
            ),
            f"aws events put-rule --name {name} --event-pattern '{json.dumps(pattern)}'",
            (
                f"aws events put-targets --rule {name} --targets"
                " 'Id=1,Arn=<destination arn>,RoleArn=<role>,DeadLetterConfig={Arn=<queue arn>}'"
            ),
        ],
    )


def _script(name: str, settings: WebhookSettings, url: str, buckets: Sequence[str]) -> str:  # noqa: ARG001
    is_own = settings.credential_header.lower() != "authorization"
    header = f"{settings.credential_header}: <token>" if is_own else "Authorization: Bearer <token>"
    body: dict[str, object] = {"keys": ["shop/a b.html"], "deleted": ["shop/old.html"]}
    if len(settings.buckets) > 1:
        body["bucket"] = buckets[0]
    return _block(
        "A script of your own: keys as they are, not percent-encoded",
        [f"curl -fsS -H '{header}' --data-binary '{json.dumps(body)}' {url}"],
    )


def _ceph(name: str, settings: WebhookSettings, url: str, buckets: Sequence[str]) -> str:  # noqa: ARG001
    attributes = {"push-endpoint": url, "persistent": "true", "OpaqueData": "<token>"}
    rule = {"TopicConfigurations": [{"Id": name, "TopicArn": "<topic arn>", "Events": list(EVENTS)}]}
    notify = [
        f"aws s3api put-bucket-notification-configuration --endpoint-url <gateway> --bucket {bucket}"
        f" --notification-configuration '{json.dumps(rule)}'"
        for bucket in buckets
    ]
    create = f"aws sns create-topic --endpoint-url <gateway> --name {name} --attributes '{json.dumps(attributes)}'"
    return _block(
        "Ceph RGW: a persistent topic, which keeps events while nobody answers, and a rule", [create, *notify]
    )


def _hmac(settings: WebhookSettings, url: str) -> str:
    signed = '"$time.$body"' if settings.timestamp_header else '"$body"'
    timestamp = f"-H '{settings.timestamp_header}: '$time " if settings.timestamp_header else ""
    return _block(
        "A sender that signs: HMAC-SHA256 over the body" + (", with the time before it" if timestamp else ""),
        [
            *(["time=$(date +%s)"] if timestamp else []),
            f"signature=$(printf %s {signed} | openssl dgst -sha256 -hmac '<secret>' -r | cut -d' ' -f1)",
            f"curl -fsS {timestamp}-H '{settings.signature_header}: sha256='$signature --data-binary \"$body\" {url}",
        ],
    )


def _sns(topic: str, url: str) -> str:
    scheme = url.partition(":")[0]
    command = f"aws sns subscribe --topic-arn {topic} --protocol {scheme} --notification-endpoint {url}"
    return _block(
        "Amazon SNS: a subscription, confirmed while cdn-listener runs; without raw delivery, which is unsigned",
        [
            command,
            f"aws sns set-topic-attributes --topic-arn {topic} --attribute-name SignatureVersion --attribute-value 2",
        ],
    )


def _eventbridge(url: str, buckets: Sequence[str]) -> str:
    types = ("oss:ObjectCreated:", "oss:ObjectRemoved:", "oss:ObjectModified:")
    pattern = {
        "source": ["acs.oss"],
        "type": [{"prefix": each} for each in types],
        "data": {"oss": {"bucket": {"name": list(buckets)}}},
    }
    return _block(
        "Alibaba Cloud EventBridge: a rule on the bus 'default' with this pattern and an HTTP(S) target",
        [
            json.dumps(pattern, indent=2),
            f"URL: {url}",
            "Token: <token>",
            "Body: complete event",
            "Retry: exponential backoff",
        ],
    )
