"""Runs a webhook source: ``python -m tests.sources.webhook.runner SETTINGS``; commits in memory."""

from __future__ import annotations

import asyncio
import json
import sys

import structlog

from listener.sources.webhook import WebhookSettings, WebhookSource


async def run(settings: dict[str, object]) -> None:
    """Tell the address, then for each line read: the figures and how many changes were taken."""
    source = WebhookSource("hook", WebhookSettings(**settings))  # type: ignore[arg-type]
    taken = 0

    async def follow() -> None:
        nonlocal taken
        async for delivery in source.deliveries(None):  # type: ignore[arg-type]
            taken += len(delivery.changes)
            await delivery.ack()

    following = asyncio.create_task(follow())
    while not source.health.ready:
        await asyncio.sleep(0.01)
    print(source.address, flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps({"taken": taken, "tasks": len(asyncio.all_tasks()), **source.health.figures}), flush=True)
    following.cancel()


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    asyncio.run(run(json.loads(sys.argv[1])))
