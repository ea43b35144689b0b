"""``cdn-listener emulate`` and ``demo``: a local CDN to rehearse with, and a tour."""

from __future__ import annotations

import os
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from typer.core import TyperCommand

from listener.cli.common import log_at, run_async

if TYPE_CHECKING:
    from listener.emulator import EmulatorCore
    from listener.emulator.faults import FaultTable

__all__ = ["EmulateCommand", "demo", "emulate"]


class Cdn(StrEnum):
    """A CDN that can be emulated, by the ``type`` of its target."""

    ALIBABA_CDN = "alibaba-cdn"
    ALIBABA_DCDN = "alibaba-dcdn"
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
    from listener.emulator import CloudflareEmulator, CloudFrontEmulator, DcdnEmulator, Emulator

    tables = {
        Cdn.ALIBABA_CDN: Emulator.table,
        Cdn.ALIBABA_DCDN: DcdnEmulator.table,
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
            help="alibaba-cdn, alibaba-dcdn: the daily quota. Default: 10000,100.",
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
    adopt_credentials(None, os.environ)
    api_host, api_port = parse_address(api)
    edge_host, edge_port = parse_address(edge)
    shared: dict[str, Any] = {
        "origin": origin,
        "api_host": api_host,
        "api_port": api_port,
        "edge_host": edge_host,
        "edge_port": edge_port,
        "faults": tuple(_faults_of(cdn).parse(order) for order in fault or ()),
        "ttl_seconds": ttl_seconds,
        "journal": None if journal is None else expanded(journal),
    }
    if task_seconds is not None:
        shared["task_seconds"] = task_seconds
    minute = {"--urls-per-domain-minute": urls_per_domain_minute}
    minute["--directories-per-domain-minute"] = directories_per_domain_minute
    alibaba = {"--quota": quota, "--domain": domain, **minute}
    options: dict[Cdn, dict[str, Any]] = {
        Cdn.ALIBABA_CDN: alibaba,
        Cdn.ALIBABA_DCDN: alibaba,
        Cdn.CLOUDFLARE: {"--plan": plan, "--zone": zone},
        Cdn.CLOUDFRONT: {"--distribution": distribution, "--limits": limits},
    }
    own = options[cdn].keys()
    every = {name: value for each in options.values() for name, value in each.items()}
    _refuse_other({name: value for name, value in every.items() if name not in own}, cdn)
    if cdn is Cdn.CLOUDFLARE:
        emulator = _cloudflare(shared, plan, zone or ())
    elif cdn is Cdn.CLOUDFRONT:
        emulator = _cloudfront(shared, distribution or (), limits)
    else:
        emulator = _alibaba(cdn, shared, quota or "10000,100", domain or (), minute)
    run_async(serve(emulator, lambda one: typer.echo(f"api {one.api_url}  edge {one.edge_url}")))


def _refuse_other(options: dict[str, Any], cdn: Cdn) -> None:
    """Raise :class:`ConfigurationError` for an option of another CDN."""
    from listener.errors import ConfigurationError

    if given := [name for name, value in options.items() if value]:
        raise ConfigurationError(f"{' and '.join(given)} cannot be used with --cdn {cdn.value}.", hint="Leave it out.")


def _cloudflare(shared: dict[str, Any], plan: PlanChoice | None, zones: Sequence[str]) -> EmulatorCore:
    from listener.emulator import CloudflareEmulator, CloudflareSettings
    from listener.emulator.cloudflare import parse_zone, token_from_environment

    options: dict[str, Any] = {**shared, "token": token_from_environment(), "zones": tuple(map(parse_zone, zones))}
    if plan is not None:
        options["plan"] = plan.value
    return CloudflareEmulator(CloudflareSettings(**options))


def _cloudfront(shared: dict[str, Any], distributions: Sequence[str], limits: LimitsChoice | None) -> EmulatorCore:
    from listener.emulator import CloudFrontEmulator, CloudFrontSettings
    from listener.emulator.cloudfront import key_from_environment, parse_distribution

    options: dict[str, Any] = {**shared, "key": key_from_environment()}
    if distributions:
        options["distributions"] = tuple(map(parse_distribution, distributions))
    if limits is not None:
        options["limits"] = limits.value
    return CloudFrontEmulator(CloudFrontSettings(**options))


def _alibaba(
    cdn: Cdn, shared: dict[str, Any], quota: str, domains: Sequence[str], minute: dict[str, int | None]
) -> EmulatorCore:
    from listener.emulator import DcdnEmulator, Emulator, EmulatorSettings, credentials_from_environment, parse_quota

    given: dict[str, Any] = {name[2:].replace("-", "_"): limit for name, limit in minute.items() if limit is not None}
    emulate = DcdnEmulator if cdn is Cdn.ALIBABA_DCDN else Emulator
    return emulate(
        EmulatorSettings(
            **shared,
            **given,
            credentials=credentials_from_environment(),
            quota=parse_quota(quota),
            domains=tuple(domains),
        )
    )


def demo(cdn: Annotated[Cdn, CDN_OPTION] = Cdn.ALIBABA_CDN) -> int:
    """Watch the whole path at work on a local emulator, without an account: files change, the edge becomes fresh."""
    from listener.demo import run_demo

    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"  # all addresses are local
    log_at("warning")
    return 0 if run_async(run_demo(typer.echo, cdn.value)) else 1
