"""PgBouncer in transaction mode, with fewer connections to the server than it has clients."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.postgres.cluster import Cluster, free_server_port, own_folder, unprivileged
from tests.stand import until

POOL_SIZE = 4


class Pool:
    """A running pool in front of every database of a cluster."""

    def __init__(self, cluster: Cluster, port: int) -> None:
        self.cluster = cluster
        self.port = port

    def url(self, database: str = "postgres") -> str:
        """Return the address of a database through the pool."""
        return self.cluster.url(database, port=self.port)


@contextmanager
def pgbouncer(command: str, cluster: Cluster) -> Iterator[Pool]:
    """Run it as the server's own user: it refuses to be root."""
    folder, port = own_folder("pgbouncer-"), free_server_port()
    ini, log = folder / "pgbouncer.ini", folder / "pgbouncer.log"
    ini.write_text(
        f"""
[databases]
* = host=127.0.0.1 port={cluster.port} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {POOL_SIZE}
max_client_conn = 200
server_login_retry = 1
server_idle_timeout = 60
logfile = {log}
"""
    )
    process = subprocess.Popen(
        unprivileged(command, "--quiet", ini), cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until(lambda: process.poll() is not None or _listens(port), what="pgbouncer listens")
        assert process.poll() is None, log.read_text()[-2000:] if log.exists() else process.returncode
        yield Pool(cluster, port)
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
