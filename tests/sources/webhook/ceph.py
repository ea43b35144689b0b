"""A running Ceph object gateway with one store in memory; for tests that want its notifications."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from tests.stand import free_port

COMMANDS = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
READY_SECONDS = 120.0
CONFIG = """
[global]
fsid = {fsid}
mon host = {mon}
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
public addr = 127.0.0.1
run dir = {folder}/run
admin socket = {folder}/run/$name.asok
log file = {folder}/log/$name.log
pid file = {folder}/run/$name.pid
ms bind ipv6 = false
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pg autoscale mode = off
mon allow pool size one = true
mon max pg per osd = 2000
osd crush chooseleaf type = 0
mon data avail crit = 1
mon data avail warn = 2
[mon.a]
mon data = {folder}/mon
mon initial members = a
[osd.0]
keyring = {folder}/osd/keyring
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = 1073741824
[client.admin]
keyring = {folder}/keyring
[client.rgw.a]
keyring = {folder}/rgw/keyring
rgw data = {folder}/rgw
rgw frontends = beast endpoint=127.0.0.1:{port}
rgw thread pool size = 16
"""


class Ceph:
    """The gateway's S3, and its topics."""

    def __init__(self, port: int) -> None:
        """Keep the ways in."""
        self.url = f"http://127.0.0.1:{port}"
        keys = {"aws_access_key_id": "ak", "aws_secret_access_key": "sk", "region_name": "default"}
        config = Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1})
        self.s3 = boto3.client("s3", endpoint_url=self.url, config=config, **keys)
        self.sns = boto3.client("sns", endpoint_url=self.url, config=Config(signature_version="v4"), **keys)

    def notify(self, bucket: str, endpoint: str, opaque_data: str) -> None:
        """Make a bucket tell a topic that keeps its events until they are taken."""
        self.s3.create_bucket(Bucket=bucket, ACL="public-read")
        attributes = {"push-endpoint": endpoint, "persistent": "true", "OpaqueData": opaque_data}
        topic = self.sns.create_topic(Name="hook", Attributes=attributes)["TopicArn"]
        events = ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]
        rule = {"TopicConfigurations": [{"Id": "hook", "TopicArn": topic, "Events": events}]}
        self.s3.put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration=rule)


@contextmanager
def ceph(folder: Path, find: Callable[[str], str]) -> Iterator[Ceph]:
    """Run monitor, store and gateway; ``find`` says where a command is, or ends the test."""
    commands = {name: find(name) for name in COMMANDS}
    for name in ("mon", "osd", "rgw", "run", "log"):
        (folder / name).mkdir(parents=True)
    port, v1, v2 = free_port(), free_port(), free_port()
    address = f"[v2:127.0.0.1:{v2},v1:127.0.0.1:{v1}]"
    fsid = str(uuid.uuid4())
    config = folder / "ceph.conf"
    config.write_text(CONFIG.format(folder=folder, fsid=fsid, mon=address, port=port))
    environment = {**os.environ, "CEPH_CONF": str(config), "CEPH_ARGS": f"-c {config}"}
    started: list[subprocess.Popen[bytes]] = []

    def run(name: str, *arguments: str | Path) -> str:
        done = subprocess.run(
            [commands[name], *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False,
            timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, (name, arguments, done.stdout, done.stderr)
        return done.stdout

    def start(name: str, *arguments: str) -> None:
        log = (folder / f"{name}.out").open("wb")
        started.append(
            subprocess.Popen([commands[name], *arguments], cwd=folder, env=environment, stdout=log, stderr=log)
        )
        log.close()

    try:
        _make_monitor(run, start, fsid, address)
        _make_store(run, start)
        run("ceph", "auth", "get-or-create", "client.rgw.a", "mon", "allow rw", "osd", "allow rwx", "-o", "rgw/keyring")
        start("radosgw", "-n", "client.rgw.a", "-f")
        run("radosgw-admin", "user", "create", "--uid=t", "--display-name=t", "--access-key=ak", "--secret=sk")
        gateway = Ceph(port)
        _until(gateway.s3.list_buckets, started)
        yield gateway
    finally:
        for process in reversed(started):
            process.send_signal(signal.SIGKILL)
            process.wait()


def _make_monitor(run: Callable[..., str], start: Callable[..., None], fsid: str, address: str) -> None:
    everything = ("--cap", "mon", "allow *", "--cap", "osd", "allow *", "--cap", "mgr", "allow *")
    run("ceph-authtool", "--create-keyring", "keyring", "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
    run("ceph-authtool", "keyring", "--gen-key", "-n", "client.admin", *everything)
    run("monmaptool", "--create", "--clobber", "--fsid", fsid, "--addv", "a", address, "monmap")
    run("ceph-mon", "-i", "a", "--mkfs", "--monmap", "monmap", "--keyring", "keyring")
    start("ceph-mon", "-i", "a", "-f")
    run("ceph", "-s", "--connect-timeout", "60")


def _make_store(run: Callable[..., str], start: Callable[..., None]) -> None:
    name = str(uuid.uuid4())
    run("ceph", "osd", "new", name)
    rights = ("mon", "allow profile osd", "osd", "allow *", "mgr", "allow profile osd")
    run("ceph", "auth", "get-or-create", "osd.0", *rights, "-o", "osd/keyring")
    run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", name)
    start("ceph-osd", "-i", "0", "-f")
    _until(lambda: "1 up" in run("ceph", "osd", "stat") or _fail(), [])


def _fail() -> Any:
    raise RuntimeError("not yet")


def _until(ask: Callable[[], Any], started: list[subprocess.Popen[bytes]]) -> None:
    end = time.monotonic() + READY_SECONDS
    while True:
        try:
            ask()
        except Exception:  # noqa: BLE001 - whatever a store that starts answers
            assert all(process.poll() is None for process in started)
            assert time.monotonic() < end
            time.sleep(0.2)
        else:
            return
