"""A running SeaweedFS: a store with the interface of S3 and notifications by HTTP."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
from botocore.config import Config

BUCKET = "site"
READY_SECONDS = 60.0
GRPC_OFFSET = 10_000
"""SeaweedFS serves gRPC on each port with this added."""


class SeaweedFS:
    """A running SeaweedFS with one bucket."""

    def __init__(self, s3_port: int, filer_port: int) -> None:
        """Keep the ways in."""
        self.filer = f"http://127.0.0.1:{filer_port}"
        self.s3 = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{s3_port}",
            aws_access_key_id="ak",
            aws_secret_access_key="sk",
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}, connect_timeout=2),
        )

    def put(self, key: str, text: str) -> None:
        """Put an object."""
        self.s3.put_object(Bucket=BUCKET, Key=key, Body=text.encode())

    def put_in_parts(self, key: str, parts: list[bytes]) -> None:
        """Upload an object in parts."""
        upload = self.s3.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"]
        reported = []
        for number, part in enumerate(parts, 1):
            etag = self.s3.upload_part(Bucket=BUCKET, Key=key, UploadId=upload, PartNumber=number, Body=part)["ETag"]
            reported.append({"ETag": etag, "PartNumber": number})
        self.s3.complete_multipart_upload(Bucket=BUCKET, Key=key, UploadId=upload, MultipartUpload={"Parts": reported})


@contextmanager
def seaweedfs(folder: Path, *, endpoint: str, token: str) -> Iterator[SeaweedFS]:
    """Run SeaweedFS; its filer sends what happens to ``endpoint``."""
    (folder / "data").mkdir(parents=True)
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    identity = {"name": "t", "credentials": [{"accessKey": "ak", "secretKey": "sk"}], "actions": actions}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    (folder / "notification.toml").write_text(
        f'[notification.webhook]\nenabled = true\nendpoint = "{endpoint}"\nbearer_token = "{token}"\n'
        "timeout_seconds = 10\nmax_retries = 5\nbackoff_seconds = 1\nmax_backoff_seconds = 2\nworkers = 5\n"
        "buffer_size = 10000\n"
    )
    master, volume, filer, s3, admin = (free_pair() for _ in range(5))
    command = [
        Path(sys.executable).parent / "weed", "-logdir=.", "mini", "-dir=data", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
        "-master.telemetry=false", f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}",
        f"-s3.port={s3}", "-s3.config=s3.json", "-volume.max=20", "-admin.ui=false", "-webdav=false",
        "-s3.port.iceberg=0", "-s3.port.lance=0", f"-admin.port={admin}", f"-filer.localSocket={folder}/f.sock",
        f"-bucket={BUCKET}",
    ]  # fmt: skip
    with (folder / "log").open("wb") as log, subprocess.Popen(command, cwd=folder, stdout=log, stderr=log) as process:
        try:
            store = SeaweedFS(s3, filer)
            _wait_for(store, process, folder / "log")
            yield store
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_for(store: SeaweedFS, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + READY_SECONDS
    while True:
        try:
            store.put(".ready", "")  # an open port is not enough
        except Exception:  # noqa: BLE001 - whatever a store that starts answers
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < end, log.read_text()[-3000:]
            time.sleep(0.1)
        else:
            return


def free_pair() -> int:
    """Return a port that nobody listens on, nor on the one for gRPC next to it."""
    while True:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            port = int(one.getsockname()[1])
            if port + GRPC_OFFSET > 65_535:
                continue
            try:
                other.bind(("127.0.0.1", port + GRPC_OFFSET))
            except OSError:
                continue
            return port
