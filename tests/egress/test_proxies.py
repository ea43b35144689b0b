"""Every client leaves through the proxy that the environment names, as boto3 does; its password is shown nowhere."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from aiohttp import web
from botocore.httpsession import ProxyConfiguration
from botocore.utils import get_environ_proxies
from hypothesis import given
from hypothesis import strategies as st

from listener.egress import proxy_for
from listener.errors import ConfigurationError
from tests import ROOT
from tests.egress.calls import HOSTS
from tests.egress.squid import PASSWORD, USER, Squid, squid
from tests.sources.webhook.hooks import write_tls

pytestmark = pytest.mark.looptime(False)
VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY")
EMPTY_QUEUE = '<Error xmlns="http://mns.aliyuncs.com/doc/v1/"><Code>MessageNotExist</Code></Error>'


@pytest.fixture(scope="module")
def proxy(system_command: Callable[[str], str]) -> Iterator[Squid]:
    """Run Squid."""
    hosts = [f"{name}.cloud.test" for name in HOSTS]
    with squid(system_command("squid"), system_command("openssl"), hosts) as running:
        yield running


class Cloud:
    """All vendors at one port; answers by host."""

    def __init__(self, scheme: str, port: int, certificate: Path) -> None:
        self.scheme, self.port, self.certificate = scheme, port, certificate
        self.seen: set[str] = set()

    async def call(self, **proxies: str) -> dict[str, str]:
        """Let every client call in a process with this environment; return what became of each."""
        clean = {name: value for name, value in os.environ.items() if name.upper() not in VARIABLES}
        environment = clean | proxies | {
            "ALIBABA_CLOUD_ACCESS_KEY_ID": "id", "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "secret",
            "AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            "SSL_CERT_FILE": str(self.certificate), "AWS_CA_BUNDLE": str(self.certificate),
        }  # fmt: skip
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.egress.calls", self.scheme, str(self.port),
            cwd=ROOT, env=environment, stdout=-1, stderr=-1,
        )  # fmt: skip
        out, error = await process.communicate()
        assert process.returncode == 0, error.decode()
        return dict(json.loads(out))


@pytest.fixture(params=["https", "http"])
async def cloud(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Cloud]:
    """Serve, with TLS or without."""
    certificate, key = write_tls(tmp_path, name="*.cloud.test")
    cloud: Cloud

    async def answer(asked: web.Request) -> web.Response:
        name = asked.host.partition(".")[0]
        cloud.seen.add(name)
        if name == "mns":
            return web.Response(status=404, text=EMPTY_QUEUE, content_type="text/xml")
        return web.json_response({"UrlQuota": "9", "UrlRemain": "9"} if name == "cdn" else {})

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    context = None
    if request.param == "https":
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, key)
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    cloud = Cloud(request.param, runner.addresses[0][1], certificate)
    yield cloud
    await runner.cleanup()


def through(proxy: Squid, password: str = PASSWORD) -> dict[str, str]:
    """Return the variables of a network that is left by this proxy only."""
    url = f"http://{USER}:{quote(password, safe='')}@127.0.0.1:{proxy.port}"
    return {"HTTP_PROXY": url, "https_proxy": url}


async def test_every_client_uses_the_proxy(proxy: Squid, cloud: Cloud) -> None:
    """The hosts are known to the proxy only, and it requires a user name and a password."""
    before = len(proxy.passed())
    assert await cloud.call(**through(proxy)) == dict.fromkeys(HOSTS, "ok")
    assert cloud.seen == set(HOSTS)
    passed = proxy.passed()[before:]
    assert {line.rpartition(" ")[2] for line in passed} == {USER}
    assert {name for name in HOSTS if any(f"{name}.cloud.test:{cloud.port}" in line for line in passed)} == set(HOSTS)


async def test_excepted_hosts_are_called_directly(proxy: Squid, cloud: Cloud) -> None:
    """``NO_PROXY`` keeps the proxy out of it; each error says that no proxy is used, and no password."""
    before = len(proxy.passed())
    reported = await cloud.call(**through(proxy), NO_PROXY=".cloud.test")
    assert len(proxy.passed()) == before
    assert not cloud.seen
    for name in ("cdn", "mns", "sqs"):
        assert "no proxy is set for it" in reported[name], reported


async def test_a_proxy_that_refuses_is_named(proxy: Squid, cloud: Cloud) -> None:
    """A wrong password: each error names the proxy and its variable, and no password."""
    reported = await cloud.call(**through(proxy, "hunter2"))
    assert not cloud.seen
    assert "hunter2" not in str(reported)
    for name in ("cdn", "mns"):
        assert f"http://127.0.0.1:{proxy.port} requires a user name and a password" in reported[name], reported
    assert "ok" not in [reported[name] for name in HOSTS if name != "edge" or cloud.scheme == "https"]


async def test_a_proxy_that_is_not_there_is_named(cloud: Cloud) -> None:
    """Nothing listens: nothing was sent, and each error says through what it went."""
    url = "http://worker:hunter2@127.0.0.1:9"
    reported = await cloud.call(HTTP_PROXY=url, HTTPS_PROXY=url)
    assert "hunter2" not in str(reported)
    for name in ("cdn", "mns", "sqs"):
        assert "through the proxy http://127.0.0.1:9 (HTTP" in reported[name], reported


HOST = st.sampled_from(["cdn.aliyuncs.com", "a.example", "127.0.0.1:80", "[::1]:80", "localhost", "xaliyuncs.com:443"])
EXCEPT = st.sampled_from(
    [
        "",
        "*",
        "aliyuncs.com",
        ".aliyuncs.com",
        "127.0.0.1",
        "::1",
        "a.example:80",
        "localhost, aliyuncs.com",
        "10.0.0.0/8",
    ]
)
VALUE = st.sampled_from(["", "http://p:1", "p:2", "http://u:p%40w@p:3/", "https://[::1]:4"])


@given(st.sampled_from(["http", "https"]), HOST, st.dictionaries(st.sampled_from([
    "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy"]), VALUE), EXCEPT)  # fmt: skip
def test_the_proxy_is_boto3_s(scheme: str, host: str, variables: dict[str, str], excepted: str) -> None:
    """Whatever the variables, the choice is the one of botocore."""
    url = f"{scheme}://{host}/a"
    with pytest.MonkeyPatch.context() as patch:
        for name in (*VARIABLES, *(name.lower() for name in VARIABLES)):
            patch.delenv(name, raising=False)
        for name, value in variables.items():
            patch.setenv(name, value)
        patch.setenv("NO_PROXY", excepted)
        theirs = ProxyConfiguration(get_environ_proxies(url)).proxy_url_for(url)
        ours = proxy_for(url)
    assert (ours is None) == (not theirs)
    if ours is not None and theirs is not None:
        scheme_end, authority = theirs.rstrip("/").split("://")
        assert ours.url == f"{scheme_end}://{authority.rpartition('@')[2]}"
        assert (ours.user, ours.password) == (("u", "p@w") if "@" in theirs else ("", ""))
        assert "p@w" not in repr(ours)
        assert ours.variable in variables


@pytest.mark.parametrize("value", ["socks5://p:1", "http://", "http://p:port", "http://[::1"])
def test_a_variable_that_names_no_proxy_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its name, and without what stands in it, which may be a password."""
    for name in VARIABLES:
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("HTTPS_PROXY", value)
    with pytest.raises(ConfigurationError, match="HTTPS_PROXY: is not the URL of an HTTP proxy"):
        proxy_for("https://a.example/")
