"""``cdn-listener emulate`` and ``demo``: a local Alibaba CDN to rehearse with, and a tour."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from listener.cli.common import log_at, run_async

__all__ = ["EmulateCommand", "demo", "emulate"]


class EmulateCommand(TyperCommand):
    """Shows the table of faults below the options; loaded only then, since it is slow to import."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - the parser's own signature
        """Write the table of faults."""
        from listener.emulator import fault_help

        with formatter.section("Faults"):
            for line in fault_help().splitlines():
                formatter.write(f"  {line}\n")


def emulate(
    origin: Annotated[
        str, typer.Option("--origin", metavar="DIR|URL", help="Where the edge fetches content: a directory or a URL.")
    ],
    api: Annotated[str, typer.Option("--api", metavar="HOST:PORT", help="Address of the API.")] = "127.0.0.1:8700",
    edge: Annotated[str, typer.Option("--edge", metavar="HOST:PORT", help="Address of the edge.")] = "127.0.0.1:8701",
    task_seconds: Annotated[
        float,
        typer.Option(
            "--task-seconds",
            metavar="SECONDS",
            min=0,
            help="Time from acceptance to completion; 300 to 360 at Alibaba.",
        ),
    ] = 1.0,
    quota: Annotated[
        str, typer.Option("--quota", metavar="FILES,DIRECTORIES[,PREFETCHES[,IGNORE_PARAMS]]", help="Daily quota.")
    ] = "10000,100",
    fault: Annotated[
        list[str] | None, typer.Option("--fault", metavar="FAULT", help="Inject a fault (see below); repeatable.")
    ] = None,
    journal: Annotated[
        Path | None, typer.Option("--journal", metavar="FILE", help="Append one JSON line per accepted request.")
    ] = None,
    domain: Annotated[
        list[str] | None,
        typer.Option("--domain", metavar="HOST", help="A domain of the account; repeatable. Default: every domain."),
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
        int, typer.Option("--urls-per-domain-minute", metavar="N", min=1, help="URLs per domain and minute.")
    ] = 10_000,
    directories_per_domain_minute: Annotated[
        int,
        typer.Option("--directories-per-domain-minute", metavar="N", min=1, help="Directories per domain and minute."),
    ] = 100,
) -> None:
    """Run a local Alibaba CDN: its API, and a caching edge in front of an origin.

    It accepts the access key in ALIBABA_CLOUD_ACCESS_KEY_ID and ALIBABA_CLOUD_ACCESS_KEY_SECRET (any two values).
    Give the client the same.
    """
    from listener.emulator import (
        Emulator,
        EmulatorSettings,
        credentials_from_environment,
        parse_address,
        parse_fault,
        parse_quota,
        serve,
    )
    from listener.settings import expanded

    log_at("info")
    api_host, api_port = parse_address(api)
    edge_host, edge_port = parse_address(edge)
    settings = EmulatorSettings(
        origin=origin,
        credentials=credentials_from_environment(),
        api_host=api_host,
        api_port=api_port,
        edge_host=edge_host,
        edge_port=edge_port,
        task_seconds=task_seconds,
        quota=parse_quota(quota),
        faults=tuple(parse_fault(order) for order in fault or ()),
        domains=tuple(domain or ()),
        ttl_seconds=ttl_seconds,
        urls_per_domain_minute=urls_per_domain_minute,
        directories_per_domain_minute=directories_per_domain_minute,
        journal=None if journal is None else expanded(journal),
    )
    run_async(serve(Emulator(settings), lambda one: typer.echo(f"api {one.api_url}  edge {one.edge_url}")))


def demo() -> int:
    """Watch the whole path at work on a local emulator, without an account: files change, the edge becomes fresh."""
    from listener.demo import run_demo

    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"  # all addresses are local
    log_at("warning")
    return 0 if run_async(run_demo(typer.echo)) else 1
