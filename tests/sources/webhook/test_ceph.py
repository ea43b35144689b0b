"""Another real store: Ceph's gateway, whose topics keep what nobody took, and say who they are in each record."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.sources.seaweedfs import BUCKET
from tests.sources.webhook.ceph import ceph
from tests.sources.webhook.hooks import TOKEN
from tests.sources.webhook.world import a_hook_world, blocking
from tests.stand import free_port

pytestmark = [pytest.mark.looptime(False), pytest.mark.timeout(400), pytest.mark.soak]


async def test_whatever_happens_in_ceph_shows_at_the_edge(tmp_path: Path, system_command: Callable[[str], str]) -> None:
    """Put, overwritten, copied, uploaded in parts, deleted; and what happened meanwhile is reported later."""
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}/ceph"
    with ceph(tmp_path / "ceph", system_command) as store:
        s3, public = store.s3, {"Bucket": BUCKET, "ACL": "public-read"}
        await blocking(store.notify, BUCKET, endpoint, TOKEN)
        await blocking(s3.put_object, Key="early.html", Body=b"early", **public)
        given = {"listen": f"127.0.0.1:{port}", "path": "/ceph", "opaque_data": True}
        async with a_hook_world(tmp_path, origin=f"{store.url}/{BUCKET}", **given) as world:

            async def is_known() -> bool:
                return "early.html" in await world.store.directory("www", "")

            await world.until(is_known, seconds=90)
            plain, copy, parts = "a b+ü%41.html", "copy.html", "parts.bin"
            for name in (plain, copy, parts):
                assert await world.get(name) == "404"
            await blocking(s3.put_object, Key=plain, Body=b"one", **public)
            await world.until_edge(plain, "one")
            await blocking(s3.put_object, Key=plain, Body=b"two!", **public)
            await world.until_edge(plain, "two!")
            await blocking(s3.copy_object, Key=copy, CopySource={"Bucket": BUCKET, "Key": plain}, **public)
            await world.until_edge(copy, "two!")
            upload = (await blocking(s3.create_multipart_upload, Key=parts, **public))["UploadId"]
            part = {"Bucket": BUCKET, "Key": parts, "UploadId": upload}
            etag = (await blocking(s3.upload_part, PartNumber=1, Body=b"x" * 1000, **part))["ETag"]
            reported = {"Parts": [{"ETag": etag, "PartNumber": 1}]}
            await blocking(s3.complete_multipart_upload, MultipartUpload=reported, **part)
            await world.until_edge(parts, "x" * 1000)
            for name in (plain, copy, parts):
                await blocking(s3.delete_object, Bucket=BUCKET, Key=name)
                await world.until_edge(name, "404")
            await world.settled()
            print(world.source.health.figures)
            assert not [name for name in world.source.health.figures if name.startswith("refused")]
