"""Real caches before an origin whose bodies carry a version: Varnish, nginx, Squid, Apache Traffic Server."""

from __future__ import annotations

import getpass
import http.client
import http.server
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from tests import ROOT

__all__ = ["HOST", "Cache", "Origin", "ThreadedOrigin", "cache", "origin"]

HOST = "www.example.com"
CONFIG = ROOT / "config/caches"
START_SECONDS = 60.0


class ThreadedOrigin(ABC):
    """A server in threads of its own, which does not look at the method."""

    def __init__(self) -> None:
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.answer(self)

            do_PURGE = do_BAN = do_GET  # noqa: N815 - named after the methods

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @abstractmethod
    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        """Answer a request, in its thread."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Origin(ThreadedOrigin):
    """Answers any path with its version and itself, for an hour, as the visitor asked for it."""

    def __init__(self) -> None:
        self.version = 1
        self.requests: list[str] = []
        super().__init__()

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        """Send the version and the path; 404 for what is absent by its name."""
        self.requests.append(request.path)
        body = f"{self.version} {request.path}".encode()
        request.send_response(404 if "absent" in request.path else 200)
        request.send_header("Content-Length", str(len(body)))
        request.send_header("Cache-Control", "public, max-age=3600")
        request.end_headers()
        request.wfile.write(body)


def origin() -> closing[Origin]:
    """Run one."""
    return closing(Origin())


class Cache:
    """One cache, reached as visitors and as cdn-listener do."""

    def __init__(self, port: int, process: subprocess.Popen[bytes]) -> None:
        self.port = port
        self.process = process

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str, *, host: str = HOST) -> str:
        """Return the body that a visitor gets."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path, headers={"Host": host})
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def version(self, path: str, *, host: str = HOST) -> int:
        """Return the version of the origin that a visitor gets."""
        return int(self.get(path, host=host).split()[0])

    def freeze(self) -> None:
        """Let it answer nothing, and keep what it holds."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it answer again."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        os.killpg(self.process.pid, number)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def cache(kind: str, command: Callable[[str], str], behind: Origin, **options: Any) -> Iterator[Cache]:
    """Run a cache of this kind before an origin, in a folder that its own user may write."""
    folder = Path(tempfile.mkdtemp(prefix=f"{kind}-"))
    folder.chmod(0o777)
    port = _free_port()
    arguments, environment = _STARTS[kind](folder, port, behind, command, **options)
    with (folder / "out").open("wb") as out:
        process = subprocess.Popen(
            arguments, env={**os.environ, **environment}, stdout=out, stderr=out, start_new_session=True
        )
    made = Cache(port, process)
    try:
        _wait(made, folder)
        yield made
    finally:
        with suppress(ProcessLookupError):
            made.go_on()
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _wait(made: Cache, folder: Path) -> None:
    """Wait until visitors get something: a port that listens may belong to a parent that is not ready."""
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and made.process.poll() is None:
        with suppress(OSError, http.client.HTTPException, ValueError):
            if made.version("/absent-ready", host="ready.test") > 0:
                return
        time.sleep(0.05)
    logs = "\n".join(log.read_text(errors="replace")[-2000:] for log in folder.glob("**/*log") if log.is_file())
    raise AssertionError(f"{folder.name} did not start: {(folder / 'out').read_text()[-2000:]}\n{logs}")


Start = tuple[list[str], dict[str, str]]


def _varnish(
    folder: Path,
    port: int,
    behind: Origin,
    command: Callable[[str], str],
    *,
    vcl: str | None = None,
    xkey: bool = False,
) -> Start:
    includes = f'include "{CONFIG}/varnish.vcl";' + (f'\ninclude "{CONFIG}/varnish-xkey.vcl";' if xkey else "")
    (folder / "v.vcl").write_text(
        f"""vcl 4.1;
{includes if vcl is None else vcl}
backend origin {{ .host = "127.0.0.1"; .port = "{behind.port}"; }}
sub vcl_backend_response {{ set beresp.ttl = 1h; set beresp.grace = 1h; }}
"""
    )
    arguments = [
        *(command("varnishd"), "-j", "none", "-F", "-n", str(folder / "n"), "-a", f"127.0.0.1:{port}", "-T", "none"),
        *("-f", str(folder / "v.vcl"), "-s", "malloc,16m", "-p", "thread_pools=1", "-p", "thread_pool_min=10"),
    ]
    return arguments, {}


def _nginx(folder: Path, port: int, behind: Origin, command: Callable[[str], str], *, has_purges: bool = True) -> Start:
    user = "user root;" if os.getuid() == 0 else ""
    temporary = "\n".join(
        f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"""{user}
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log warn;
load_module /usr/lib/nginx/modules/ngx_http_cache_purge_module.so;
events {{ worker_connections 256; }}
http {{
  access_log off;
  {temporary}
  proxy_cache_path {folder}/cache levels=1:2 keys_zone=edge:4m inactive=1h max_size=64m;
  server {{
    listen 127.0.0.1:{port};
    {f"include {CONFIG}/nginx.conf;" if has_purges else ""}
    location / {{
      proxy_pass {behind.address}; proxy_set_header Host $host; proxy_cache edge;
      proxy_cache_key "$host$uri$is_args$args";
    }}
  }}
}}
"""
    )
    return [command("nginx"), "-c", str(folder / "nginx.conf"), "-e", str(folder / "early.log")], {}


def _squid(folder: Path, port: int, behind: Origin, command: Callable[[str], str], *, has_purges: bool = True) -> Start:
    purges = (CONFIG / "squid.conf").read_text() if has_purges else ""
    (folder / "squid.conf").write_text(
        f"""{purges}
http_port 127.0.0.1:{port} accel vhost
cache_peer 127.0.0.1 parent {behind.port} 0 no-query originserver name=o
acl visitors src 127.0.0.1
http_access allow visitors
cache_peer_access o allow all
cache_mem 16 MB
cache_log {folder}/cache.log
access_log none
pid_filename none
coredump_dir {folder}
shutdown_lifetime 0 seconds
visible_hostname edge.test
pinger_enable off
netdb_filename none
"""
    )
    # Squids with one service name share memory.
    return [command("squid"), "-n", f"cdn{port}", "-N", "-f", str(folder / "squid.conf")], {}


def _trafficserver(
    folder: Path, port: int, behind: Origin, command: Callable[[str], str], *, has_purges: bool = True
) -> Start:
    shutil.copytree("/etc/trafficserver", folder / "etc", symlinks=False)
    for name in ("var", "run", "log"):
        (folder / name).mkdir()
    places = {
        "prefix": folder, "exec_prefix": folder, "bindir": "/usr/bin", "sbindir": "/usr/sbin",
        "sysconfdir": folder / "etc", "datadir": folder / "var", "includedir": "/usr/include",
        "libdir": "/usr/lib/trafficserver", "libexecdir": "/usr/lib/trafficserver/modules",
        "localstatedir": folder / "var", "runtimedir": folder / "run", "logdir": folder / "log",
        "cachedir": folder / "var",
    }  # fmt: skip
    (folder / "runroot.yaml").write_text("".join(f"{name}: {place}\n" for name, place in places.items()))
    (folder / "etc/storage.config").write_text(f"{folder}/var 32M\n")
    (folder / "etc/remap.config").write_text(f"map / {behind.address}/\n")
    if not has_purges:
        (folder / "etc/ip_allow.yaml").write_text(
            "ip_allow:\n- {apply: in, ip_addrs: 0/0, action: deny, methods: [PURGE]}\n"
        )
    user = "trafficserver" if os.getuid() == 0 else getpass.getuser()
    (folder / "etc/records.config").write_text(
        f"""CONFIG proxy.config.http.server_ports STRING {port}:ip-in=127.0.0.1
CONFIG proxy.config.admin.user_id STRING {user}
CONFIG proxy.config.exec_thread.autoconfig INT 0
CONFIG proxy.config.exec_thread.limit INT 1
CONFIG proxy.config.url_remap.pristine_host_hdr INT 1
"""
    )
    if os.getuid() == 0:
        for place in (folder, *folder.rglob("*")):
            shutil.chown(place, "trafficserver")
    return [command("traffic_server")], {"TS_RUNROOT": str(folder / "runroot.yaml")}


_STARTS: dict[str, Callable[..., Start]] = {
    "varnish": _varnish,
    "nginx": _nginx,
    "squid": _squid,
    "trafficserver": _trafficserver,
}
