"""What ``cdn-listener init`` prompts for a bucket, by the scheme of its URL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from listener.alibaba import KEY_QUESTIONS
from listener.contracts import AWS_KEY, Questions, SettingQuestion

__all__ = ["QUESTIONS"]

QUESTIONS: Final[Mapping[str, Questions]] = {
    "s3": Questions(
        settings=(SettingQuestion(key="region", text="Region of the bucket (empty: what AWS's chain says)"),),
        credentials=AWS_KEY,
        endpoint_key="endpoint_url",
    ),
    "oss": Questions(
        settings=(SettingQuestion(key="region", text="Region of the bucket, such as oss-cn-hangzhou", required=True),),
        credentials=KEY_QUESTIONS,
        endpoint_key="endpoint_url",
    ),
}
