"""A PostgreSQL server of the tests' own: Debian's programs, a data directory that no other cluster knows."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, urlencode

import psycopg
from psycopg import sql

from tests.postgres.wire import wire
from tests.stand import until

SYSTEM_USER = "postgres"
"""Debian's user of the server, which refuses to run as root."""
SERVER_PORTS = range(20000, 32000)
"""Below the ports that the kernel gives to clients, so that no client takes one between two starts."""
QUICK = {"fsync": "off", "full_page_writes": "off"}
"""What a test may do without if it does not stop the machine; a killed server loses nothing by it."""
SMALL = {
    "shared_buffers": "32MB",
    "max_wal_size": "64MB",
    "listen_addresses": "127.0.0.1",
    "wal_sender_timeout": "5s",
    "log_min_messages": "log",
}


MEMORY = Path("/dev/shm")
LEAST_MEMORY_BYTES = 4 * 2**30
"""Left there, clusters stand in memory: a copy of a database takes 20 ms, on a disk 200."""


def own_folder(prefix: str) -> Path:
    """Make a folder that the server's user may write: pytest's own may be entered by root only."""
    is_large = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= LEAST_MEMORY_BYTES
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=MEMORY if is_large else "/tmp"))
    if os.geteuid() == 0:
        shutil.chown(folder, SYSTEM_USER, SYSTEM_USER)
    return folder


def unprivileged(*command: str | Path) -> list[str]:
    """Return the command as the server's user runs it, or as it is where the tests are not root."""
    prefix = ["setpriv", f"--reuid={SYSTEM_USER}", f"--regid={SYSTEM_USER}", "--clear-groups"]
    return [*(prefix if os.geteuid() == 0 else []), *map(str, command)]


def run_unprivileged(*command: str | Path) -> None:
    """Run a program of PostgreSQL to its end; its output is in the error."""
    with tempfile.TemporaryFile() as output:  # no pipe: the server that pg_ctl starts would hold it open
        done = subprocess.run(
            unprivileged(*command), cwd="/", stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False
        )
        output.seek(0)
        text = output.read().decode(errors="replace")
    if done.returncode:
        raise AssertionError(f"{command[0]} ended with {done.returncode}: {text[-2000:]}")


def free_server_port() -> int:
    """Return a port below those of clients on which nobody listens."""
    while True:
        port = random.choice(SERVER_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class Cluster:
    """A server with its data directory; ``folder`` is removed with it."""

    def __init__(self, programs: Path, folder: Path, settings: Mapping[str, str]) -> None:
        self.programs = programs
        self.folder = folder
        self.data = folder / "data"
        self.port = free_server_port()
        self._settings = {**SMALL, **settings}
        self._templates: set[str] = set()
        self._made = 0

    @classmethod
    def initialise(cls, programs: Path) -> Path:
        """Run ``initdb`` and return the folder with the result; the clusters of a run are copies of it."""
        folder = own_folder("postgres-initial-")
        run_unprivileged(
            programs / "initdb", "--pgdata", folder / "data", "--auth=trust", "--username=postgres",
            "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "--no-instructions",
        )  # fmt: skip
        return folder

    @classmethod
    def copied(cls, programs: Path, initial: Path, *, durable: bool = False, **settings: str) -> Self:
        """Return a new cluster, not started; ``durable`` leaves fsync on."""
        folder = own_folder("postgres-")
        run_unprivileged("cp", "-a", initial / "data", folder / "data")
        return cls(programs, folder, {**({} if durable else QUICK), **settings})

    def start(self) -> Self:
        """Start the server and return when it accepts connections."""
        with (self.data / "postgresql.conf").open("a") as file:
            lines = {**self._settings, "port": str(self.port), "unix_socket_directories": str(self.folder)}
            file.writelines(f"{name} = '{value}'\n" for name, value in lines.items())
        self._control("start", "--log", self.log, "--timeout=60")
        return self

    def stop(self, mode: str = "fast") -> None:
        """Stop the server: ``fast`` ends sessions in order, ``immediate`` is a crash that recovery follows."""
        self._control("stop", f"--mode={mode}")

    def restart(self, mode: str = "fast") -> None:
        """Stop the server and start it again on the same port."""
        self.stop(mode)
        self.start()

    def remove(self) -> None:
        """Stop the server, if it runs, and remove its files."""
        if (self.data / "postmaster.pid").exists():
            self.stop("immediate")
        shutil.rmtree(self.folder, ignore_errors=True)

    def configure(self, **settings: str) -> None:
        """Change settings of the running server that need no restart; those of a standby too."""
        with self.connect() as connection:
            for name, value in settings.items():
                connection.execute(sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(name), sql.Literal(value)))
            connection.execute("SELECT pg_reload_conf()")
        for name, value in settings.items():
            until(lambda name=name, value=value: self.value(f"SHOW {name}") == value, what=f"{name} = {value}")  # type: ignore[misc]

    @property
    def log(self) -> Path:
        """Where the server writes its messages."""
        return self.folder / "server.log"

    def url(self, database: str = "postgres", *, port: int = 0, user: str = "postgres", **options: Any) -> str:
        """Return the address of a database over TCP; ``port`` is that of a proxy or pool in front."""
        query = f"?{urlencode(options, quote_via=quote)}" if options else ""
        return f"postgresql://{user}@127.0.0.1:{port or self.port}/{database}{query}"

    def socket_url(self, database: str = "postgres") -> str:
        """Return the address of a database over the Unix socket."""
        return f"postgresql://postgres@/{database}?host={quote(str(self.folder), safe='')}&port={self.port}"

    def connect(self, database: str = "postgres", **options: Any) -> psycopg.Connection[tuple[Any, ...]]:
        """Open a connection on which each statement is a transaction of its own."""
        return psycopg.connect(self.url(database), autocommit=True, connect_timeout=10, **options)

    def value(self, statement: str, *values: Any, database: str = "postgres") -> Any:
        """Run a statement on a connection of its own and return the first value, None if it gives no row."""
        with self.connect(database) as connection:
            cursor = connection.execute(statement, values)
            row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None

    def template(self, name: str, prepare: Callable[[str], object]) -> str:
        """Make a database once, by a function that gets its URL, of which tests get copies; return its name."""
        if name not in self._templates:
            self._create(name, "template0")
            prepare(self.url(name))
            self._templates.add(name)
        return name

    @contextmanager
    def database(self, template: str = "template0") -> Iterator[str]:
        """Create a database for a test and give its name; dropped afterwards, whoever is still connected."""
        self._made += 1
        name = f"test_{self._made}"
        self._create(name, template)
        try:
            yield name
        finally:
            with self.connect() as connection:
                connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def standby(self, **settings: str) -> Standby:
        """Return a copy that follows this server, started and streaming."""
        folder = own_folder("postgres-standby-")
        standby = Standby(self.programs, folder, {**self._settings, **settings})
        try:
            run_unprivileged(
                self.programs / "pg_basebackup", "--pgdata", standby.data, "--host=127.0.0.1",
                f"--port={standby.connect_to(self.port)}", "--username=postgres", "--write-recovery-conf",
                "--wal-method=stream", "--checkpoint=fast", "--no-sync",
            )  # fmt: skip
            standby.start()
            until(lambda: self.value("SELECT state FROM pg_stat_replication") == "streaming", what="a standby follows")
        except BaseException:
            standby.remove()
            raise
        return standby

    def _create(self, name: str, template: str) -> None:
        with self.connect() as connection:
            statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
            connection.execute(statement.format(sql.Identifier(name), sql.Identifier(template)))

    def _control(self, action: str, *options: str | Path) -> None:
        run_unprivileged(self.programs / "pg_ctl", action, "--pgdata", self.data, "--wait", *options)


class Standby(Cluster):
    """A server that follows another one through a wire, until it is promoted."""

    def connect_to(self, port: int) -> int:
        """Make the wire to the server on this port; return the wire's own."""
        self._parts = ExitStack()
        self._wire = self._parts.enter_context(wire(port))
        return self._wire.port

    def stall(self) -> None:
        """Cut the wire: commits of a server that does not wait for this one are not here from now on."""
        self._wire.cut()

    def resume(self) -> None:
        """Let it receive again."""
        self._wire.mend()

    def promote(self) -> None:
        """Make it the server that takes writes, without what a stalled one had not received; stop the other first."""
        self._control("promote")

    def remove(self) -> None:
        """Remove it with its wire."""
        super().remove()
        self._parts.close()
