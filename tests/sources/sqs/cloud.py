"""A small cloud: moto's S3, SQS, SNS and EventBridge, the emulator's edge in front of its bucket, and our pipeline."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import boto3
from moto.server import ThreadedMotoServer
from yarl import URL

from listener.alibaba.signature import Credentials
from listener.emulator import Emulator, EmulatorSettings
from listener.pipeline import Pipeline, store_options
from listener.plugins import load_sources
from listener.refresh import RefreshKind
from listener.settings import Settings
from listener.store import Store, open_store
from listener.targets.alibaba_cdn import AlibabaCdn

REGION = "us-east-1"
ACCOUNT = "123456789012"
BUCKET = "site"
CDN_KEYS = {"ALIBABA_CLOUD_ACCESS_KEY_ID": "testid", "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "testsecret"}
DEADLINE_SECONDS = 90.0
EVENTS = ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]
WAYS = ["sqs", "sns", "eventbridge"]


@contextmanager
def moto() -> Iterator[str]:
    """Run moto's server in a thread; its URL."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


class Cloud:
    """Clients of one moto server, and what is set up there."""

    def __init__(self, url: str) -> None:
        self.url = url
        names = ("s3", "sqs", "sns", "events")
        self.s3, self.sqs, self.sns, self.events = (self.client(name) for name in names)

    def client(self, name: str) -> Any:
        """Return a client of a service."""
        return boto3.session.Session().client(name, region_name=REGION, endpoint_url=self.url)

    def make(self, way: str, *, policy: dict[str, Any] | None = None) -> str:
        """Make a bucket whose events come to a queue by this way; return the queue's URL."""
        attributes = {} if policy is None else {"Policy": json.dumps(policy)}
        queue: str = self.sqs.create_queue(QueueName="events", Attributes=attributes)["QueueUrl"]
        self.s3.create_bucket(Bucket=BUCKET)
        anybody = {
            "Effect": "Allow",
            "Principal": "*",
            "Action": "s3:GetObject",
            "Resource": f"arn:aws:s3:::{BUCKET}/*",
        }
        self.s3.put_bucket_policy(Bucket=BUCKET, Policy=json.dumps({"Version": "2012-10-17", "Statement": [anybody]}))
        if way != "none":
            self.notify(way)
        return queue

    def notify(self, way: str, **rule: Any) -> None:
        """Let the bucket tell of its objects."""
        arn = f"arn:aws:sqs:{REGION}:{ACCOUNT}:events"
        reported: dict[str, Any]
        if way == "sqs":
            reported = {"QueueConfigurations": [{"QueueArn": arn, "Events": EVENTS, **rule}]}
        elif way == "sns":
            topic = self.sns.create_topic(Name="events")["TopicArn"]
            self.sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
            reported = {"TopicConfigurations": [{"TopicArn": topic, "Events": EVENTS}]}
        else:
            self.events.put_rule(Name="events", EventPattern=json.dumps({"source": ["aws.s3"]}))
            self.events.put_targets(Rule="events", Targets=[{"Id": "queue", "Arn": arn}])
            reported = {"EventBridgeConfiguration": {}}
        self.s3.put_bucket_notification_configuration(Bucket=BUCKET, NotificationConfiguration=reported)

    def close(self) -> None:
        """Close the clients."""
        for client in (self.s3, self.sqs, self.sns, self.events):
            client.close()


class Served:
    """A bucket behind a CDN, with the listener between its events and the CDN."""

    def __init__(self, emulator: Emulator, store: Store, pipeline: Pipeline, http: aiohttp.ClientSession) -> None:
        self.emulator = emulator
        self.store = store
        self.pipeline = pipeline
        self._http = http

    async def get(self, key: str) -> str:
        """Return what the edge answers: a body, or a status when that is not 200."""
        async with self._http.get(URL(f"{self.emulator.edge_url}/{quote(key, safe='/+')}", encoded=True)) as response:
            return await response.text() if response.status == 200 else str(response.status)

    async def turns(self, key: str, text: str) -> None:
        """Wait until the edge answers so."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while (found := await self.get(key)) != text:
            assert time.monotonic() < deadline, f"{key} is {found!r}, not {text!r}; {await self.store.counts()}"
            await asyncio.sleep(0.02)


@asynccontextmanager
async def served(
    folder: Path, cloud: Cloud, queue_url: str, change: Callable[[dict[str, Any]], None] = lambda _: None
) -> AsyncIterator[Served]:
    """Run emulator and pipeline on a queue; ``change`` may alter the source's table."""
    options = EmulatorSettings(
        origin=f"{cloud.url}/{BUCKET}", credentials=Credentials("testid", "testsecret"), api_port=0, edge_port=0,
        task_seconds=0.1, quota={RefreshKind.FILE: 1000, RefreshKind.DIRECTORY: 0},
    )  # fmt: skip
    async with Emulator(options) as emulator, aiohttp.ClientSession() as http:
        table = {"type": "sqs", "queue_url": queue_url, "wait_seconds": 1, "buckets": BUCKET}
        change(table)
        tables: dict[str, Any] = {
            "store": {"url": f"sqlite:///{folder}/state.db"},
            "coalescer": {"quiet_seconds": 0.05, "cap_seconds": 1.0},
            "verifier": {"first_seconds": 0.2, "interval_seconds": 0.1},
            "planner": {"reserve": 0.0},
            "admin": {"listen": ""},
            "sources": {"events": table},
            "targets": {"cdn": {"type": "alibaba-cdn"}},
            "sites": [
                {
                    "source": "events",
                    "target": "cdn",
                    "base_urls": [emulator.edge_url + "/"],
                    "min_interval_seconds": 0,
                    "index_documents": [],
                }
            ],
        }
        settings = Settings(**tables)
        cdn = AlibabaCdn("cdn", AlibabaCdn.Settings(endpoint=emulator.api_url), environment=CDN_KEYS)  # type: ignore[arg-type]
        targets = {"cdn": cdn}
        async with open_store(settings.store.url, options=store_options(settings, targets), owner=True) as store:
            pipeline = Pipeline(settings, store, make_sources=lambda: load_sources(settings), targets=targets)
            running = asyncio.create_task(pipeline.run())
            try:
                yield Served(emulator, store, pipeline, http)
            finally:
                pipeline.stop()
                await running
        await cdn.close()
