"""Commands find what a distribution keeps under one URL, by whichever of its hosts it is named."""

from __future__ import annotations

import pytest

from listener.daemon.selection import places, prefixes, require_overlap
from listener.errors import ConfigurationError
from listener.pipeline.requests import RequestedUrl, requested_urls
from listener.refresh import Scope
from listener.settings import Settings
from listener.store.controls import Place

WWW, IMG = "https://www.example.com/", "https://img.example.com/img/"
SETTINGS = Settings.model_validate(
    {
        "sources": {"www": {"type": "filesystem", "path": "/srv/www"}},
        "targets": {
            "cache": {"type": "http-purge", "servers": ["http://127.0.0.1:1"]},
            "cdn": {"type": "cloudfront", "distribution": "EDFDVBD6EXAMPLE"},
        },
        "sites": [
            {"name": "www", "source": "www", "target": "cdn", "base_urls": [WWW]},
            {"name": "img", "source": "www", "targets": ["cdn", "cache"], "base_urls": [IMG]},
        ],
    }
)


def test_what_is_requested() -> None:
    """The address at each layer; a directory, and what cannot be named, as the router makes it."""
    assert requested_urls(SETTINGS, [IMG + "a/b"], Scope.EXACT, target=None) == [
        RequestedUrl("cdn", f"{WWW}img/a/b", Scope.EXACT),
        RequestedUrl("cache", IMG + "a/b", Scope.EXACT),
    ]
    assert requested_urls(SETTINGS, [IMG + "a/b~/"], Scope.SUBTREE, target="cdn") == [
        RequestedUrl("cdn", f"{WWW}img/a/b*", Scope.EXACT)
    ]
    with pytest.raises(ConfigurationError, match="above the blast radius"):
        requested_urls(SETTINGS, [IMG], Scope.SUBTREE, target="cdn")


def test_what_is_selected() -> None:
    """A site's own base URLs for every target, and those that one target keeps for that target alone."""
    own, other = Place("", IMG), Place("cdn", f"{WWW}img/")
    assert places(SETTINGS, site="img", target=None) == [own, other]
    assert places(SETTINGS, site="img", target="cache") == [Place("cache", IMG)]
    assert places(SETTINGS, site="img", target="cdn") == [Place("cdn", IMG), other]
    assert prefixes(SETTINGS, IMG + "a", site=None) == [Place("", IMG + "a"), Place("cdn", f"{WWW}img/a")]
    assert prefixes(SETTINGS, "/a", site="img") == [Place("", IMG + "a"), Place("cdn", f"{WWW}img/a")]
    assert prefixes(SETTINGS, "/a", site="img", target="cache") == [Place("cache", IMG + "a")]
    for prefix in (IMG, f"{WWW}img/a", "https://img"):
        require_overlap(SETTINGS, prefix)
    with pytest.raises(ConfigurationError, match="is not below"):
        require_overlap(SETTINGS, "https://www.example.net/")
