"""What a request takes besides that is made for all that begins in some way, since no name can be asked for."""

from __future__ import annotations

from listener.change import key_to_text
from listener.contracts import JoinsUrls
from listener.pipeline.accounts import Account
from listener.refresh import RefreshKind, directory_of
from listener.router.routing import Sites
from listener.store.index import objects_beginning
from listener.store.needs import Snapshot
from listener.store.transitions import AttemptRequest
from listener.urls import decode_path

__all__ = ["is_beginning", "objects_at", "with_objects"]


def is_beginning(account: Account, one: AttemptRequest) -> bool:
    """Return whether a request is for all that begins as its URL does."""
    is_wildcard = one.kind is RefreshKind.FILE and one.url.endswith("*")
    return is_wildcard and isinstance(account.targets[one.target], JoinsUrls)


def objects_at(snapshot: Snapshot, sites: Sites, one: AttemptRequest) -> int:
    """Return how many known objects begin so."""
    beginning = one.url[:-1]
    folder = directory_of(beginning)
    name = key_to_text(decode_path(beginning[len(folder) :]))
    return sum(
        snapshot.run(objects_beginning, snapshot.own_root(root), prefix + name)
        for root, prefix in sites.router.key_prefixes(one.target, folder)
    )


def with_objects(one: AttemptRequest, objects: int) -> AttemptRequest:
    """Return a request whose reason says how much it takes."""
    what = f"Takes all that begins so ({objects} known objects), since the CDN cannot be asked for the name."
    return one._replace(reason=f"{what} {one.reason}")
