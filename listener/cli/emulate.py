"""``cdn-listener emulate``: a local Alibaba CDN to rehearse with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from listener.cli.common import log_at, run_async

__all__ = ["EmulateCommand", "emulate"]


class EmulateCommand(TyperCommand):
    """Shows the table of faults below its options; it is read only then, since it is slow to import."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - the parser's own signature
        """Write the table of faults."""
        from listener.emulator import fault_help

        with formatter.section("Faults"):
            for line in fault_help().splitlines():
                formatter.write(f"  {line}\n")


def emulate(
    origin: Annotated[str, typer.Option("--origin", metavar="DIR|URL", help="What the edge fetches from.")],
    api: Annotated[str, typer.Option("--api", metavar="HOST:PORT", help="Where the API listens.")] = "127.0.0.1:8700",
    edge: Annotated[
        str, typer.Option("--edge", metavar="HOST:PORT", help="Where the edge listens.")
    ] = "127.0.0.1:8701",
    task_seconds: Annotated[
        float,
        typer.Option("--task-seconds", metavar="SECONDS", min=0, help="From acceptance to effect; 300 to 360 in life."),
    ] = 1.0,
    quota: Annotated[
        str, typer.Option("--quota", metavar="FILES,DIRECTORIES[,PREFETCHES[,IGNORE_PARAMS]]", help="Units a day.")
    ] = "10000,100",
    fault: Annotated[
        list[str] | None, typer.Option("--fault", metavar="ORDER", help="Order a fault (below); may be repeated.")
    ] = None,
    journal: Annotated[
        Path | None, typer.Option("--journal", metavar="FILE", help="Append a JSON line for each accepted request.")
    ] = None,
    domain: Annotated[
        list[str] | None, typer.Option("--domain", metavar="HOST", help="A domain of the account; without any, all.")
    ] = None,
    ttl_seconds: Annotated[
        float | None,
        typer.Option(
            "--ttl-seconds", metavar="SECONDS", min=0, help="How long the edge takes a copy for fresh; else for ever."
        ),
    ] = None,
    urls_per_domain_minute: Annotated[
        int, typer.Option("--urls-per-domain-minute", metavar="N", min=1, help="URLs a domain and minute.")
    ] = 10_000,
    directories_per_domain_minute: Annotated[
        int,
        typer.Option("--directories-per-domain-minute", metavar="N", min=1, help="Directories a domain and minute."),
    ] = 100,
) -> None:
    """A local Alibaba CDN: its API, and a caching edge in front of an origin.

    Its access key is the one in ALIBABA_CLOUD_ACCESS_KEY_ID and ALIBABA_CLOUD_ACCESS_KEY_SECRET, any two values:
    give the client the same.
    """
    from listener.emulator import (
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
    run_async(serve(settings, lambda emulator: typer.echo(f"api {emulator.api_url}  edge {emulator.edge_url}")))
