"""What OSS sends to a queue."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from typing import Any


def event(
    name: str, key: str, *, bucket: str = "site", size: int = 10, etag: str = "D9703079D307A57C"
) -> dict[str, Any]:
    """Return one event as OSS writes it."""
    return {
        "eventName": name,
        "eventSource": "acs:oss",
        "eventTime": "2026-01-02T03:04:05.000Z",
        "eventVersion": "1.0",
        "oss": {
            "bucket": {"arn": f"acs:oss:cn-hangzhou:1000000000000001:{bucket}", "name": bucket},
            "object": {"key": key, "size": size, "deltaSize": size, "eTag": etag},
            "ossSchemaVersion": "1.0",
            "ruleId": "cdn",
        },
        "region": "cn-hangzhou",
    }


def body_of(*events: dict[str, Any], encode: bool = True) -> str:
    """Return the body of a message with these events, in Base64 as OSS sends it."""
    text = json.dumps({"events": list(events)}, ensure_ascii=False)
    return base64.b64encode(text.encode()).decode() if encode else text


def bodies(keys: Iterable[str], name: str = "ObjectCreated:PutObject") -> list[str]:
    """Return a message a key."""
    return [body_of(event(name, key)) for key in keys]
