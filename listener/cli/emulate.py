"""``cdn-listener emulate`` and ``demo``: a local CDN to rehearse with, and a tour."""

from __future__ import annotations

import os
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from typer.core import TyperCommand

from listener.cli.common import log_at, run_async

if TYPE_CHECKING:
    from listener.emulator import EmulatorCore, EmulatorSettings
    from listener.emulator.faults import FaultTable

__all__ = ["EmulateCommand", "demo", "emulate"]


class Cdn(StrEnum):
    """A CDN that can be emulated, by the ``type`` of its target."""

    ALIBABA_CDN = "alibaba-cdn"
    ALIBABA_DCDN = "alibaba-dcdn"
    ALIBABA_ESA = "alibaba-esa"
    CLOUDFLARE = "cloudflare"
    CLOUDFRONT = "cloudfront"


class PlanChoice(StrEnum):
    """A plan of Cloudflare."""

    FREE = "free"
    PRO = "pro"
    BUSINESS = "business"
    ENTERPRISE = "enterprise"


class LimitsChoice(StrEnum):
    """How CloudFront limits an account."""

    RATE = "rate"
    SLOTS = "slots"


CDN_OPTION: Final = typer.Option("--cdn", help="Which CDN to emulate.")


class EmulateCommand(TyperCommand):
    """Shows the table of faults below the options; loaded only then, since it is slow to import."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - the parser's own signature
        """Write the table of faults of each CDN."""
        for cdn in Cdn:
            with formatter.section(f"Faults of {cdn.value}"):
                for line in _faults_of(cdn).help().splitlines():
                    formatter.write(f"  {line}\n")


def _faults_of(cdn: Cdn) -> FaultTable:
    from listener.emulator import CloudflareEmulator, CloudFrontEmulator, DcdnEmulator, Emulator, EsaEmulator

    tables = {
        Cdn.ALIBABA_CDN: Emulator.table,
        Cdn.ALIBABA_DCDN: DcdnEmulator.table,
        Cdn.ALIBABA_ESA: EsaEmulator.table,
        Cdn.CLOUDFLARE: CloudflareEmulator.table,
        Cdn.CLOUDFRONT: CloudFrontEmulator.table,
    }
    return tables[cdn]


def emulate(
    origin: Annotated[
        str, typer.Option("--origin", metavar="DIR|URL", help="Where the edge fetches content: a directory or a URL.")
    ],
    cdn: Annotated[Cdn, CDN_OPTION] = Cdn.ALIBABA_CDN,
    api: Annotated[str, typer.Option("--api", metavar="HOST:PORT", help="Address of the API.")] = "127.0.0.1:8700",
    edge: Annotated[str, typer.Option("--edge", metavar="HOST:PORT", help="Address of the edge.")] = "127.0.0.1:8701",
    points: Annotated[
        int,
        typer.Option(
            "--points",
            min=1,
            max=64,
            help="Points of presence: pop1 at --edge, the others at the ports after it, each with its own cache.",
        ),
    ] = 1,
    task_seconds: Annotated[
        float | None,
        typer.Option(
            "--task-seconds",
            metavar="SECONDS",
            min=0,
            help="Time from acceptance to effect; 300 to 360 at Alibaba. Default: 1, for cloudflare 0.",
        ),
    ] = None,
    quota: Annotated[
        str | None,
        typer.Option(
            "--quota",
            metavar="FILES,DIRECTORIES[,PREFETCHES[,IGNORE_PARAMS]]",
            help="alibaba-…: the daily quota, for alibaba-esa of each site. Default: 10000,100; alibaba-esa 1000,100.",
        ),
    ] = None,
    quota_30_days: Annotated[
        str | None,
        typer.Option(
            "--quota-30-days",
            metavar="FILES,DIRECTORIES[,PREFETCHES[,IGNORE_PARAMS]]",
            help="alibaba-esa: the quota of 30 days of each site. Default: none.",
        ),
    ] = None,
    fault: Annotated[
        list[str] | None, typer.Option("--fault", metavar="FAULT", help="Inject a fault (see below); repeatable.")
    ] = None,
    journal: Annotated[
        Path | None, typer.Option("--journal", metavar="FILE", help="Append one JSON line per accepted request.")
    ] = None,
    domain: Annotated[
        list[str] | None,
        typer.Option(
            "--domain",
            metavar="HOST",
            help="alibaba-cdn, alibaba-dcdn: a domain of the account; repeatable. Default: every domain.",
        ),
    ] = None,
    ttl_seconds: Annotated[
        float | None,
        typer.Option(
            "--ttl-seconds",
            metavar="SECONDS",
            min=0,
            help="How long the edge considers a copy fresh. Default: for ever.",
        ),
    ] = None,
    urls_per_domain_minute: Annotated[
        int | None,
        typer.Option(
            "--urls-per-domain-minute",
            metavar="N",
            min=1,
            help="alibaba-cdn, alibaba-dcdn: URLs per domain and minute. Default: 10000.",
        ),
    ] = None,
    directories_per_domain_minute: Annotated[
        int | None,
        typer.Option(
            "--directories-per-domain-minute",
            metavar="N",
            min=1,
            help="alibaba-cdn, alibaba-dcdn: directories per domain and minute. Default: 100.",
        ),
    ] = None,
    plan: Annotated[
        PlanChoice | None, typer.Option("--plan", help="cloudflare: the plan, with its limits. Default: free.")
    ] = None,
    zone: Annotated[
        list[str] | None,
        typer.Option(
            "--zone",
            metavar="NAME[=ID]",
            help="cloudflare: a zone of the account; repeatable. Default: one with the host of --edge.",
        ),
    ] = None,
    distribution: Annotated[
        list[str] | None,
        typer.Option(
            "--distribution",
            metavar="ID[=HOST,…]",
            help="cloudfront: a distribution of the account, with its hosts; repeatable. Default: EDFDVBD6EXAMPLE, "
            "which serves every host.",
        ),
    ] = None,
    limits: Annotated[
        LimitsChoice | None,
        typer.Option(
            "--limits",
            help="cloudfront: 150 paths and a wildcard per second (rate), or 3,000 files and 15 wildcards in progress "
            "(slots). Default: rate.",
        ),
    ] = None,
    site: Annotated[
        list[str] | None,
        typer.Option(
            "--site",
            metavar="NAME[=ID]",
            help="alibaba-esa: a site of the account; repeatable. Default: one with the host of --edge.",
        ),
    ] = None,
) -> None:
    """Run a local CDN: its API, and a caching edge in front of an origin.

    It accepts the access key in ALIBABA_CLOUD_ACCESS_KEY_ID and ALIBABA_CLOUD_ACCESS_KEY_SECRET, with --cdn cloudflare
    the token in CLOUDFLARE_API_TOKEN, with --cdn cloudfront the key in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY: any
    values. Without them it is "rehearsal" each. Give the client the same.
    """
    from listener.configuration import adopt_credentials
    from listener.emulator import parse_address, serve
    from listener.settings import expanded

    log_at("info")
    if (own := Path("listener.toml")).exists():  # never the keys of a service that runs on this machine
        adopt_credentials(own, os.environ)
    api_host, api_port = parse_address(api)
    edge_host, edge_port = parse_address(edge)
    shared: dict[str, Any] = {
        "origin": origin,
        "api_host": api_host,
        "api_port": api_port,
        "edge_host": edge_host,
        "edge_port": edge_port,
        "points": points,
        "faults": tuple(_faults_of(cdn).parse(order) for order in fault or ()),
        "ttl_seconds": ttl_seconds,
        "journal": None if journal is None else expanded(journal),
    }
    if task_seconds is not None:
        shared["task_seconds"] = task_seconds
    given = {
        "quota": quota,
        "quota_30_days": quota_30_days,
        "domain": domain,
        "urls_per_domain_minute": urls_per_domain_minute,
        "directories_per_domain_minute": directories_per_domain_minute,
        "plan": plan,
        "zone": zone,
        "site": site,
        "distribution": distribution,
        "limits": limits,
    }
    emulator = _EMULATORS[cdn](shared, _own({name: value for name, value in given.items() if value}, cdn))
    run_async(serve(emulator, lambda one: typer.echo(f"api {one.api_url}  edge {' '.join(one.edge_urls)}")))


_OF_AN_ACCOUNT: Final = frozenset({"quota", "domain", "urls_per_domain_minute", "directories_per_domain_minute"})
_OPTIONS: Final = {
    Cdn.ALIBABA_CDN: _OF_AN_ACCOUNT,
    Cdn.ALIBABA_DCDN: _OF_AN_ACCOUNT,
    Cdn.ALIBABA_ESA: frozenset({"quota", "quota_30_days", "site"}),
    Cdn.CLOUDFLARE: frozenset({"plan", "zone"}),
    Cdn.CLOUDFRONT: frozenset({"distribution", "limits"}),
}
"""What each CDN takes besides what all take."""


def _own(given: dict[str, Any], cdn: Cdn) -> dict[str, Any]:
    """Return the options that were given. Raise :class:`ConfigurationError` for one of another CDN."""
    from listener.errors import ConfigurationError

    if others := [f"--{name.replace('_', '-')}" for name in given if name not in _OPTIONS[cdn]]:
        raise ConfigurationError(f"{' and '.join(others)} cannot be used with --cdn {cdn.value}.", hint="Leave it out.")
    return given


def _cloudflare(shared: dict[str, Any], given: dict[str, Any]) -> EmulatorCore:
    from listener.emulator import CloudflareEmulator, CloudflareSettings
    from listener.emulator.cloudflare import parse_zone, token_from_environment

    zones = tuple(map(parse_zone, given.get("zone", ())))
    plan = {"plan": given["plan"].value} if "plan" in given else {}
    return CloudflareEmulator(CloudflareSettings(**shared, **plan, zones=zones, token=token_from_environment()))


def _cloudfront(shared: dict[str, Any], given: dict[str, Any]) -> EmulatorCore:
    from listener.emulator import CloudFrontEmulator, CloudFrontSettings
    from listener.emulator.cloudfront import key_from_environment, parse_distribution

    options: dict[str, Any] = {**shared, "key": key_from_environment()}
    if "distribution" in given:
        options["distributions"] = tuple(map(parse_distribution, given["distribution"]))
    if "limits" in given:
        options["limits"] = given["limits"].value
    return CloudFrontEmulator(CloudFrontSettings(**options))


def _cdn(shared: dict[str, Any], given: dict[str, Any]) -> EmulatorCore:
    from listener.emulator import Emulator

    return Emulator(_account(shared, given))


def _dcdn(shared: dict[str, Any], given: dict[str, Any]) -> EmulatorCore:
    from listener.emulator import DcdnEmulator

    return DcdnEmulator(_account(shared, given))


def _account(shared: dict[str, Any], given: dict[str, Any]) -> EmulatorSettings:
    from listener.emulator import EmulatorSettings, credentials_from_environment, parse_quota

    minute = {name: given[name] for name in given if name.endswith("_minute")}
    return EmulatorSettings(
        **shared,
        **minute,
        credentials=credentials_from_environment(),
        quota=parse_quota(given.get("quota", "10000,100")),
        domains=tuple(given.get("domain", ())),
    )


def _esa(shared: dict[str, Any], given: dict[str, Any]) -> EmulatorCore:
    from listener.emulator import EsaEmulator, EsaSettings, credentials_from_environment, parse_quota, parse_site

    names = ("quota", "quota_30_days")
    limits: dict[str, Any] = {name: parse_quota(given[name], others={}) for name in names if name in given}
    sites = tuple(map(parse_site, given.get("site", ())))
    return EsaEmulator(EsaSettings(**shared, **limits, sites=sites, credentials=credentials_from_environment()))


_EMULATORS: Final[dict[Cdn, Callable[[dict[str, Any], dict[str, Any]], EmulatorCore]]] = {
    Cdn.ALIBABA_CDN: _cdn,
    Cdn.ALIBABA_DCDN: _dcdn,
    Cdn.ALIBABA_ESA: _esa,
    Cdn.CLOUDFLARE: _cloudflare,
    Cdn.CLOUDFRONT: _cloudfront,
}


def demo(
    cdn: Annotated[Cdn, CDN_OPTION] = Cdn.ALIBABA_CDN,
    probes: Annotated[
        bool,
        typer.Option("--probes", help="Also let a point of presence ignore a refresh: probes find and mend it."),
    ] = False,
) -> int:
    """Watch the whole path at work on a local emulator, without an account: files change, the edge becomes fresh."""
    from listener.demo import run_demo

    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"  # all addresses are local
    log_at("warning")
    return 0 if run_async(run_demo(typer.echo, cdn.value, has_probes=probes)) else 1
