"""The access key of stand-ins for Alibaba Cloud, as the environment gives it."""

from __future__ import annotations

KEYS = {"ALIBABA_CLOUD_ACCESS_KEY_ID": "testid", "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "testsecret"}
