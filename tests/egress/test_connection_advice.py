"""A connection that fails for its certificate says so: expired, self-signed, for another host, or the clock."""

from __future__ import annotations

import datetime as dt
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from botocore.exceptions import EndpointConnectionError, SSLError
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from listener.egress import connection_advice
from tests.sources.webhook.hooks import write_tls

pytestmark = pytest.mark.looptime(False)
Making = Callable[[Path], tuple[Path, Path, Path]]


def by_itself(**options: object) -> Making:
    """Return what makes a certificate, its key, and what the client trusts: the certificate."""

    def make(folder: Path) -> tuple[Path, Path, Path]:
        certificate, key = write_tls(folder, **options)
        return certificate, key, certificate

    return make


def untrusted(folder: Path) -> tuple[Path, Path, Path]:
    """Make a certificate that the client does not know, and one that it does."""
    certificate, key = write_tls(folder)
    (other := folder / "other").mkdir()
    return certificate, key, write_tls(other, name="other")[0]


def by_authority(*, sends_authority: bool) -> Making:
    """Return what makes a certificate as a proxy that inspects TLS does: issued by an authority of its own."""

    def make(folder: Path) -> tuple[Path, Path, Path]:
        authority, key = (rsa.generate_private_key(65537, 2048) for _ in range(2))
        root = issued(authority, authority, "Inspection")
        chain = [issued(authority, key, "localhost"), *([root] if sends_authority else [])]
        paths = folder / "chain.pem", folder / "chain.key"
        paths[0].write_bytes(b"".join(one.public_bytes(serialization.Encoding.PEM) for one in chain))
        form = serialization.PrivateFormat.PKCS8
        paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
        (other := folder / "other").mkdir()
        return (*paths, write_tls(other, name="other")[0])

    return make


def issued(authority: rsa.RSAPrivateKey, key: rsa.RSAPrivateKey, name: str) -> x509.Certificate:
    """Return a certificate for this name and key, issued by the authority "Inspection"."""
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Inspection")]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=key is authority, path_length=None), critical=True)
        .sign(authority, hashes.SHA256())
    )


CASES: dict[str, tuple[Making, str, str]] = {
    "expired": (by_itself(days=(-30, -1)), "has expired, or the clock of this machine", "date -u"),
    "early": (by_itself(days=(1, 30)), "is not valid yet, or the clock of this machine", "NTP"),
    "self-signed": (untrusted, "the certificate of localhost is self-signed", "SSL_CERT_FILE"),
    "inspected": (by_authority(sends_authority=False), "an authority that this machine does not", "SSL_CERT_FILE"),
    "whole chain": (by_authority(sends_authority=True), "an authority that this machine does not", "SSL_CERT_FILE"),
    "other host": (by_itself(name="elsewhere.example"), "is not for localhost", "check the host in endpoint"),
}


@asynccontextmanager
async def serving(certificate: Path | None, key: Path | None) -> AsyncIterator[str]:
    """Serve with this certificate, or without TLS; give the https URL."""
    context = None
    if certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, key)
    runner = web.AppRunner(web.Application())
    await runner.setup()
    await web.TCPSite(runner, "localhost", 0, ssl_context=context).start()
    yield f"https://localhost:{runner.addresses[0][1]}"
    await runner.cleanup()


async def by_aiohttp(url: str, trusted: Path) -> BaseException:
    """Return what aiohttp raises."""
    context = ssl.create_default_context(cafile=str(trusted))
    with pytest.raises(aiohttp.ClientConnectorError) as raised:
        async with aiohttp.ClientSession() as session, session.get(url, ssl=context):
            pass
    return raised.value


@pytest.mark.parametrize("case", CASES)
async def test_the_cause_and_the_remedy_are_named(case: str, tmp_path: Path) -> None:
    """By a real server; boto3's error has the same words of OpenSSL."""
    make, cause, hint = CASES[case]
    certificate, key, trusted = make(tmp_path)
    async with serving(certificate, key) as url:
        error = await by_aiohttp(url, trusted)
        for one in (error, SSLError(endpoint_url=url, error=error)):
            advice = connection_advice(one, url, setting="endpoint")
            assert cause in advice.cause
            assert hint in advice.hint


async def test_a_server_without_tls_is_named(tmp_path: Path) -> None:
    """https to a port that speaks http."""
    async with serving(None, None) as url:
        error = await by_aiohttp(url, write_tls(tmp_path)[0])
        advice = connection_advice(error, url, setting="endpoint")
    assert advice.cause == "localhost does not speak TLS on that port"
    assert "check scheme and port in endpoint" in advice.hint


def test_other_errors_name_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a proxy, through one, and with a variable that names none."""
    for name in ("https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    error = EndpointConnectionError(endpoint_url="https://a.example/")

    def advise() -> str:
        return " ".join(connection_advice(error, "https://a.example/", setting="endpoint"))

    assert "no proxy is set" in advise()
    monkeypatch.setenv("HTTPS_PROXY", "http://u:hunter2@p:1")
    assert "through the proxy http://p:1 (HTTPS_PROXY)" in advise()
    monkeypatch.setenv("HTTPS_PROXY", "socks5://u:hunter2@p:1")
    assert "HTTPS_PROXY: is not the URL of an HTTP proxy" in advise()
    assert "hunter2" not in advise()
