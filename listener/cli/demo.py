"""``cdn-listener demo``."""

from __future__ import annotations

import os

import typer

from listener.cli.common import log_at, run_async

__all__ = ["demo"]


def demo() -> int:
    """Files change, the edge turns fresh: the whole path on a local stand-in, without any account."""
    from listener.demo import run_demo

    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"  # everything is on this machine
    log_at("warning")
    return 0 if run_async(run_demo(typer.echo)) else 1
