"""TLS of a process that loads the system's certificates at its first connection."""

from __future__ import annotations

import asyncio
import os
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from aiohttp import web

from tests.sources.webhook.hooks import write_tls

pytestmark = pytest.mark.looptime(False)
GET = """
import asyncio, ssl, sys
from listener.cli.common import importing
load = ssl.SSLContext.load_default_certs
with importing():
    import aiohttp
    from aiohttp import connector
assert ssl.SSLContext.load_default_certs is load
context = connector._SSL_CONTEXT_VERIFIED
before = context.cert_store_stats()["x509"]

async def get():
    async with aiohttp.ClientSession() as session:
        for _ in range(2):
            async with session.get(sys.argv[1]) as response:
                print(await response.text())

try:
    asyncio.run(get())
except aiohttp.ClientConnectorCertificateError:
    print("not trusted")
print(before, context.cert_store_stats()["x509"], type(context) is ssl.SSLContext)
"""


@pytest.mark.parametrize(("trusts", "expected"), [("its own", ["fresh", "fresh"]), ("another", ["not trusted"])])
async def test_certificates_are_loaded_at_the_first_connection(
    tmp_path: Path, trusts: str, expected: list[str]
) -> None:
    """A connection is verified as ever: with the certificates of the system, and against no others."""
    certificate, key = write_tls(tmp_path)
    (other := tmp_path / "other").mkdir()
    trusted = certificate if trusts == "its own" else write_tls(other, name="other")[0]
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)

    async def fresh(_request: web.BaseRequest) -> web.Response:
        return web.Response(text="fresh")

    runner = web.ServerRunner(web.Server(fresh))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()

        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", GET, f"https://localhost:{runner.addresses[0][1]}/",
            env={**os.environ, "SSL_CERT_FILE": str(trusted), "SSL_CERT_DIR": str(other)},
            stdout=subprocess.PIPE,
        )  # fmt: skip
        out, _ = await process.communicate()
    finally:
        await runner.cleanup()
    *found, stores = out.decode().splitlines()
    assert found == expected
    assert stores == "0 1 True"
