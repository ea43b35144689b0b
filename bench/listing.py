"""
Listing a bucket: ours, obstore, boto3, `aws s3 ls --recursive`, `s5cmd ls` and `rclone lsf`, on a real S3 server.

    python -m bench.listing                                       100,000 objects in a SeaweedFS of its own
    python -m bench.listing --objects 1000000                     as many as that
    python -m bench.listing --endpoint URL --bucket NAME          a server that runs already (AWS_… in the environment)
    python -m bench.listing --synthetic 10000000                  memory: listed, compared and planned, without a server
    python -m bench.listing --enqueue --endpoint URL --bucket B   the whole command, into a new state file

Prints keys per processor second of the lister (the server's are its own), and keys a second by the clock. Peers that
are not installed are left out and named; `--tools DIR` is looked into first.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import resource
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3

from listener.backfill import audit
from listener.backfill.plan import Tally
from listener.change import Fingerprint
from listener.router.routing import Sites
from listener.settings import parse_settings
from listener.sources.listing import BucketListing, ListingSettings
from listener.sources.listing.pages import Entry, Page
from listener.store import open_store
from tests.sources.seaweedfs import free_pair

obstore = S3Store = None
with contextlib.suppress(ImportError):  # a peer, no dependency
    import obstore
    from obstore.store import S3Store

KEYS = {"AWS_ACCESS_KEY_ID": "ak", "AWS_SECRET_ACCESS_KEY": "sk", "AWS_DEFAULT_REGION": "us-east-1"}
IDENTITY = '{"identities":[{"name":"t","credentials":[{"accessKey":"ak","secretKey":"sk"}],"actions":["Admin"]}]}'


# -- a server of its own ------------------------------------------------------------------------------


@contextmanager
def seaweedfs(objects: int) -> Iterator[tuple[str, str]]:
    """Run a SeaweedFS that holds so many small objects; yield its endpoint and the bucket."""
    weed = Path(sys.executable).parent / "weed"
    with tempfile.TemporaryDirectory() as home:
        here = Path(home)
        (here / "data").mkdir()
        (here / "s3.json").write_text(IDENTITY)
        ports = {}
        for name in ("master", "volume", "filer", "s3", "admin"):
            ports[name] = free_pair()
            hold = socket.socket()
            hold.bind(("127.0.0.1", ports[name]))
            ports[name + " held"] = hold  # type: ignore[assignment]
        for name in [name for name in ports if name.endswith("held")]:
            ports.pop(name).close()  # type: ignore[attr-defined]
        flags = [f"-{name}.port={port}" for name, port in ports.items()]
        server = subprocess.Popen(
            [weed, "-logdir=.", "mini", "-dir=data", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false",
             *flags, "-s3.config=s3.json", "-volume.max=20", "-admin.ui=false", "-webdav=false", "-s3.port.iceberg=0",
             "-s3.port.lance=0", f"-filer.localSocket={here}/f.sock"],
            cwd=here, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            endpoint = f"http://127.0.0.1:{ports['s3']}"
            put_first(endpoint)
            shell = [weed, "shell", f"-master=127.0.0.1:{ports['master']}", f"-filer=127.0.0.1:{ports['filer']}"]
            multiply(here, shell, objects)
            yield endpoint, "bench"
        finally:
            server.terminate()
            server.wait()


def put_first(endpoint: str) -> None:
    client = boto3.client("s3", endpoint_url=endpoint)
    for _ in range(200):
        try:
            client.create_bucket(Bucket="bench")
            client.put_object(Bucket="bench", Key="d0000/aaaaaaa.html", Body=b"hello")
        except Exception:  # noqa: BLE001 - not yet up
            time.sleep(0.2)
        else:
            return
    raise SystemExit("SeaweedFS does not come up")


def multiply(here: Path, shell: list[object], objects: int) -> None:
    """Load the first object's metadata under other names: a million PUTs would take the better part of an hour."""

    def run(line: str) -> None:
        subprocess.run(list(map(str, shell)), input=line, text=True, cwd=here, capture_output=True, check=False)

    run("fs.meta.save -o one.meta /buckets/bench\n")
    raw, parts, at = (here / "one.meta").read_bytes(), [], 0
    while at < len(raw):
        size = 4 + struct.unpack(">I", raw[at : at + 4])[0]
        parts.append(raw[at : at + size])
        at += size
    _, folder, file = parts
    with (here / "all.meta").open("wb") as out:
        for number in range(-(-objects // 1000)):
            name = b"d%04d" % number
            out.write(folder.replace(b"d0000", name))
            base = file.replace(b"/d0000", b"/" + name)
            for one in range(1000):
                out.write(base.replace(b"aaaaaaa", b"%07d" % (7 * one)))
    run("fs.meta.load all.meta\n")


# -- the listers --------------------------------------------------------------------------------------


def ours(endpoint: str, bucket: str, concurrency: int) -> Callable[[], int]:
    settings = ListingSettings(url=f"s3://{bucket}", endpoint_url=endpoint, concurrency=concurrency)
    return lambda: sum(1 for _ in BucketListing("bench", settings).changes())


def of_boto3(endpoint: str, bucket: str) -> Callable[[], int]:
    client = boto3.client("s3", endpoint_url=endpoint)
    pages = client.get_paginator("list_objects_v2")
    return lambda: sum(len(page.get("Contents", ())) for page in pages.paginate(Bucket=bucket))


def of_obstore(endpoint: str, bucket: str) -> Callable[[], int] | None:
    if obstore is None:
        return None
    store = S3Store(
        bucket,
        endpoint=endpoint,
        access_key_id=os.environ["AWS_ACCESS_KEY_ID"],
        secret_access_key=os.environ["AWS_SECRET_ACCESS_KEY"],
        region=os.environ["AWS_DEFAULT_REGION"],
        client_options={"allow_http": True},
    )
    return lambda: sum(len(chunk) for chunk in obstore.list(store, chunk_size=1000))


def command(tool: str, where: str, *arguments: str) -> Callable[[], int] | None:
    path = shutil.which(tool, path=f"{where}:{os.environ['PATH']}")
    if path is None:
        return None

    def run() -> int:
        process = subprocess.Popen([path, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert process.stdout is not None
        lines = sum(chunk.count(b"\n") for chunk in iter(lambda: process.stdout.read(1 << 20), b""))
        process.wait()
        return lines

    return run


def used(children: bool) -> float:
    found = resource.getrusage(resource.RUSAGE_CHILDREN if children else resource.RUSAGE_SELF)
    return found.ru_utime + found.ru_stime


def compare(endpoint: str, bucket: str, tools: str) -> None:
    rclone = f":s3,provider=Other,env_auth=true,endpoint='{endpoint}':{bucket}"
    listers: list[tuple[str, bool, Callable[[], int] | None]] = [
        ("ours, one lister", False, ours(endpoint, bucket, 1)),
        ("ours, 8 listers", False, ours(endpoint, bucket, 8)),
        ("obstore (dicts, keys not exact)", False, of_obstore(endpoint, bucket)),
        ("boto3 paginator", False, of_boto3(endpoint, bucket)),
        ("s5cmd ls", True, command("s5cmd", tools, "--endpoint-url", endpoint, "ls", f"s3://{bucket}/*")),
        (
            "rclone lsf -R --fast-list",
            True,
            command("rclone", tools, "lsf", "-R", "--fast-list", "--files-only", rclone),
        ),
        (
            "aws s3 ls --recursive",
            True,
            command("aws", tools, "--endpoint-url", endpoint, "s3", "ls", "--recursive", f"s3://{bucket}"),
        ),
    ]  # fmt: skip
    first = 0.0
    for name, children, run in listers:
        if run is None:
            print(f"{name:34} not installed")
            continue
        before, at = used(children), time.perf_counter()
        count = run()
        cpu, clock = used(children) - before, time.perf_counter() - at
        first = first or count / cpu
        print(
            f"{name:34} {count:>9,} keys  {count / cpu:>9,.0f} a CPU second  {count / clock:>8,.0f} a second"
            f"  {count / cpu / first:5.2f} of ours",
            flush=True,
        )


# -- memory -------------------------------------------------------------------------------------------


def synthetic(count: int) -> Callable[..., Page]:
    """Return what asks a bucket for a page that has so many objects, a thousand to a folder, and keeps none."""

    def fetch(prefix: str, after: str, *, folders: bool = False) -> Page:
        del prefix
        if folders:
            return Page([], [], False, None)
        begin = 0
        if after:
            folder, _, name = after.partition("/")
            digits = "".join(one if one.isdecimal() else "9" for one in folder[1:6].ljust(5, "0"))
            rest = "".join(one if one.isdecimal() else "9" for one in name[:4].ljust(4, "0"))
            begin = int(digits) * 1000 + (min(int(rest) + 1, 1000) if name else 0)
        end = min(begin + 1000, count)
        entries = [
            Entry(f"d{at // 1000:05}/{at % 1000:04}.jpg", Fingerprint(at, 1_700_000_000_000_000_000, etag=f"{at:032x}"))
            for at in range(begin, end)
        ]
        return Page(entries, [], end < count, None)

    return fetch


def memory(count: int) -> None:
    settings = ListingSettings(url="s3://synthetic", concurrency=1)
    listing = BucketListing("synthetic", settings, fetch=synthetic(count))
    given = {
        "sources": {"synthetic": {"type": "listing", "url": "s3://synthetic"}},
        "targets": {"cdn": {"type": "alibaba-cdn"}},
        "sites": [{"source": "synthetic", "target": "cdn", "base_urls": ["https://www.example.com/"]}],
    }
    tally = Tally(Sites(parse_settings(given, {}).sites))
    for name, run in (
        ("listed and counted for the cost", lambda: tally.add(listing.changes())),
        ("compared with an empty index", lambda: asyncio.run(audit(listing, None))),
    ):
        before, at = used(False), time.perf_counter()
        run()
        cpu, clock = used(False) - before, time.perf_counter() - at
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{name:34} {count:>11,} keys  {count / cpu:>9,.0f} a CPU second  {clock:6.0f} s  peak {peak:,.0f} MiB")


# -- the whole command --------------------------------------------------------------------------------


def enqueue(endpoint: str, bucket: str) -> None:
    """Run the command itself while an owner of the state file sends nothing: listed, planned, made durable."""
    with tempfile.TemporaryDirectory() as home:
        here = Path(home)
        (here / "listener.toml").write_text(
            f'[store]\nurl = "sqlite:///{here}/state.db"\n'
            f'[sources.www]\ntype = "listing"\nurl = "s3://{bucket}"\nendpoint_url = "{endpoint}"\n'
            '[targets.cdn]\ntype = "alibaba-cdn"\nendpoint = "http://127.0.0.1:9"\n'
            '[[sites]]\nsource = "www"\ntarget = "cdn"\nbase_urls = ["https://www.example.com/"]\n'
        )
        keys = {"ALIBABA_CLOUD_ACCESS_KEY_ID": "x", "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "x"}
        environment = {**os.environ, **keys, "LISTENER_CONFIG": str(here / "listener.toml")}
        for words in (["--dry-run"], ["--yes"]):
            asyncio.run(timed(words, here, environment))
        print(f"state file: {(here / 'state.db').stat().st_size / 2**20:,.0f} MiB")


async def timed(words: list[str], here: Path, environment: dict[str, str]) -> None:
    async with open_store(f"sqlite:///{here}/state.db", owner=True) as owner:
        before, at = used(True), time.perf_counter()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "listener", "backfill", *words, "--json", "--quota-share", "1", env=environment,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        await process.communicate()
        cpu, clock = used(True) - before, time.perf_counter() - at
        counts = await owner.counts()
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    took = f"{cpu:6.1f} CPU s  {clock:6.1f} s"
    print(f"backfill {' '.join(words):12} {took}  needs {counts.pending:,}  peak {peak:,.0f} MiB", flush=True)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--objects", type=int, default=100_000)
    asked.add_argument("--endpoint")
    asked.add_argument("--bucket", default="bench")
    asked.add_argument("--tools", default="")
    asked.add_argument("--synthetic", type=int)
    asked.add_argument("--enqueue", action="store_true")
    given = asked.parse_args()
    os.environ.pop("AWS_CA_BUNDLE", None)  # rclone takes none
    for name, value in KEYS.items():
        os.environ.setdefault(name, value)
    if given.synthetic:
        memory(given.synthetic)
        return
    with contextlib.ExitStack() as stack:
        if given.endpoint is None:
            given.endpoint, given.bucket = stack.enter_context(seaweedfs(given.objects))
        if given.enqueue:
            enqueue(given.endpoint, given.bucket)
        else:
            compare(given.endpoint, given.bucket, given.tools)


if __name__ == "__main__":
    main()
