"""A real store sends what happens in it, and the edge turns fresh: SeaweedFS, the pipeline, the emulator."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sources.seaweedfs import BUCKET, seaweedfs
from tests.sources.webhook.hooks import TOKEN
from tests.sources.webhook.world import a_hook_world, blocking
from tests.stand import free_port

pytestmark = pytest.mark.looptime(False)


async def test_whatever_happens_in_the_store_shows_at_the_edge(tmp_path: Path) -> None:
    """Put, overwritten, copied, uploaded in parts, renamed, deleted: fresh or gone at the edge; refused: not one."""
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}/weed"
    with seaweedfs(tmp_path / "weed", endpoint=endpoint, token=TOKEN) as store:
        origin = f"{store.filer}/buckets/{BUCKET}"
        async with a_hook_world(tmp_path, origin=origin, listen=f"127.0.0.1:{port}", path="/weed") as world:
            names = ("a b+ü%41.html", "copy.html", "parts.bin", "renamed.html", "d/e/f.html")
            plain, copy, parts, renamed, deep = names
            for name in names:
                assert await world.get(name) == "404"

            await blocking(store.put, plain, "one")
            await world.until_edge(plain, "one")
            await blocking(store.put, plain, "two!")
            await world.until_edge(plain, "two!")

            source = {"Bucket": BUCKET, "Key": plain}
            await blocking(store.s3.copy_object, Bucket=BUCKET, Key=copy, CopySource=source)
            await world.until_edge(copy, "two!")

            pieces = [b"x" * 5 * 1024 * 1024, b"y"]
            await blocking(store.put_in_parts, parts, pieces)
            await world.until_edge(parts, "x" * 5 * 1024 * 1024 + "y")

            move = f"{store.filer}/buckets/{BUCKET}/{renamed}?mv.from=/buckets/{BUCKET}/{copy}"
            async with world.http.post(move) as response:
                assert response.status == 204
            await world.until_edge(renamed, "two!")
            await world.until_edge(copy, "404")

            await blocking(store.put, deep, "deep")
            await world.until_edge(deep, "deep")
            for name in (plain, deep, parts):
                await blocking(store.s3.delete_object, Bucket=BUCKET, Key=name)
                await world.until_edge(name, "404")

            await world.settled()
            figures = world.source.health.figures
            print(figures)
            assert not [name for name in figures if name.startswith("refused")]
            assert not await world.store.dead_letters()
