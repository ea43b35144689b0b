"""Runs a source: ``python -m tests.sources.filesystem.runner PATH OUT KEY=VALUE…``; OUT gets a line a change."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from listener.sources.filesystem import FilesystemSettings, FilesystemSource
from tests.sources.harness import MemoryIndex


async def run(path: Path, out: Path, settings: dict[str, object]) -> None:
    """Follow the source until killed; ``OUT.health`` holds what it says of itself."""
    source = FilesystemSource("www", FilesystemSettings(path=path, **settings))  # type: ignore[arg-type]
    index = MemoryIndex()

    async def report() -> None:
        while True:
            health = source.health
            record = {name: getattr(health, name) for name in health.__slots__}
            Path(f"{out}.next").write_text(json.dumps(record))
            Path(f"{out}.next").rename(f"{out}.health")
            await asyncio.sleep(0.1)

    reporting = asyncio.create_task(report())
    with out.open("w") as file:
        async for delivery in source.deliveries(index):
            index.apply(delivery)
            if not delivery.seed:
                file.writelines(f"{change.kind} {change.finished:d} {change.key!r}\n" for change in delivery.changes)
                file.flush()
            await delivery.ack()
    reporting.cancel()


if __name__ == "__main__":
    values = {name: json.loads(value) for name, _, value in (each.partition("=") for each in sys.argv[3:])}
    asyncio.run(run(Path(sys.argv[1]), Path(sys.argv[2]), values))
