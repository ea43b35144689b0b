"""Squid, the proxy of many company networks, with a user, and names that only it knows."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

USER, PASSWORD = "worker", "pa:ss/w@rd"


class Squid:
    """A running proxy."""

    def __init__(self, port: int, folder: Path) -> None:
        self.port = port
        self.folder = folder

    def passed(self) -> list[str]:
        """Return the method and target of each request that was let through, with its user."""
        lines = (line.split() for line in (self.folder / "access.log").read_text().splitlines())
        return [f"{words[5]} {words[6]} {words[7]}" for words in lines if "DENIED" not in words[3]]


@contextmanager
def squid(command: str, openssl: str, hosts: list[str]) -> Iterator[Squid]:
    """Run it in a folder that its own user may read; each host is this machine."""
    folder = Path(tempfile.mkdtemp(prefix="squid-"))
    folder.chmod(0o777)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    digest = subprocess.run([openssl, "passwd", "-apr1", PASSWORD], capture_output=True, text=True, check=True).stdout
    (folder / "passwords").write_text(f"{USER}:{digest}")
    (folder / "hosts").write_text("".join(f"127.0.0.1 {host}\n" for host in hosts))
    (folder / "squid.conf").write_text(
        f"""
http_port 127.0.0.1:{port}
pid_filename none
visible_hostname proxy.test
hosts_file {folder}/hosts
access_log stdio:{folder}/access.log
cache_log {folder}/cache.log
cache_store_log none
cache deny all
coredump_dir {folder}
shutdown_lifetime 0 seconds
auth_param basic program /usr/lib/squid/basic_ncsa_auth {folder}/passwords
auth_param basic children 1 startup=1 idle=1
acl users proxy_auth REQUIRED
http_access allow users
http_access deny all
"""
    )
    process = subprocess.Popen([command, "-N", "-f", str(folder / "squid.conf")], stdout=subprocess.DEVNULL)
    try:
        _wait(process, port, folder)
        yield Squid(port, folder)
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _wait(process: subprocess.Popen[bytes], port: int, folder: Path) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    log = folder / "cache.log"
    raise AssertionError(f"squid did not start: {log.read_text()[-2000:] if log.exists() else process.returncode}")
