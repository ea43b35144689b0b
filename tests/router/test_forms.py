"""Addresses: under which one URL a target keeps what its CDN does not distinguish."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from listener.change import Change, ChangeKind
from listener.errors import KeyRejected
from listener.refresh import Scope
from listener.router.routing import Sites
from listener.settings import Site

REFUSED = re.compile(r"[~'*]")


class Joined:
    """A CDN that takes the path alone, and cannot be asked for some characters."""

    shares_hosts = True

    @staticmethod
    def nameable(url: str) -> str:
        match = REFUSED.search(url)
        return url if match is None or url[match.start() :] == "*" else url[: match.start()] + "*"


class OwnHosts(Joined):
    """The same, but hosts are apart."""

    shares_hosts = False


def site(**keys: Any) -> Site:
    """Return a site with two hosts, with these keys on top."""
    bases = ["https://www.example.com/", "http://img.example.com/x/"]
    return Site.model_validate({"source": "www", "target": "cdn", "base_urls": bases, **keys})


def made(sites: Sites, key: str, kind: ChangeKind = ChangeKind.CONTENT) -> list[tuple[str, str, Scope]]:
    """Return the needs of a change."""
    return [(need.target, need.url, need.scope) for need in sites.route(Change("www", key, kind))]


def test_hosts_that_are_not_distinguished_share_a_need() -> None:
    """The host is that of the target's first base URL; another target of the site keeps its own URLs."""
    bases = ["https://a.example/", "https://b.example/", "http://a.example/"]
    both = site(target=None, targets=["cdn", "other"], base_urls=bases)
    sites = Sites([both], targets={"cdn": Joined, "other": object})
    assert made(sites, "k") == [
        ("cdn", "https://a.example/k", Scope.EXACT),
        *(("other", base + "k", Scope.EXACT) for base in bases),
    ]
    assert sites.addresses("https://b.example/k") == ["https://b.example/k", "https://a.example/k"]
    assert sites.of("cdn", "https://a.example/k") is sites.of("other", "https://b.example/k") is both
    assert sites.bases(both) == tuple(bases)


def test_hosts_of_an_outer_layer_are_kept_apart() -> None:
    """It waits for the inner layer by URL: unless all has one host, each host has its own."""
    bases = ["https://a.example/", "https://b.example/"]
    layered = site(target=None, targets=["inner", "cdn"], base_urls=bases)
    sites = Sites([layered], targets={"cdn": Joined, "inner": object})
    assert [url for target, url, _ in made(sites, "k") if target == "cdn"] == [base + "k" for base in bases]
    other = site(base_urls=["https://c.example/"], source="other")
    alone = site(target=None, targets=["inner", "cdn"], base_urls=bases[:1])
    for order, url in (([other, alone], "https://c.example/k"), ([alone, other], "https://a.example/k")):
        sites = Sites(order, targets={"cdn": Joined, "inner": object})
        kept = [need.url for need in sites.route(Change("other", "k", ChangeKind.CONTENT))]
        assert kept == [url]
        assert ("cdn", "https://a.example/k", Scope.EXACT) in made(sites, "k")


def test_sites_of_one_target_have_one_tree() -> None:
    """Bases below different hosts are bases of one host; what lies below a directory is known by it."""
    www = site(base_urls=["https://www.example.com/"], name="www")
    img = site(base_urls=["https://img.example.com/img/"], name="img", source="images")
    sites = Sites([www, img], targets={"cdn": Joined})
    assert made(sites, "a/b") == [("cdn", "https://www.example.com/a/b", Scope.EXACT)]
    assert sites.of("cdn", "https://www.example.com/img/k") is img
    assert sites.router.key_prefixes("cdn", "https://www.example.com/img/a/") == [("www", "img/a/"), ("images", "a/")]
    assert sites.router.depth_floor("cdn", "https://www.example.com/img/a/")
    assert not sites.router.depth_floor("cdn", "https://www.example.com/img/")
    assert sites.bases(img) == ("https://img.example.com/img/", "https://www.example.com/img/")
    assert sites.other_bases(img) == [("cdn", "https://www.example.com/img/")]


BASE = "https://www.example.com/"


@pytest.mark.parametrize(
    ("key", "kind", "need"),
    [
        ("a/b~c.html", ChangeKind.CONTENT, (f"{BASE}a/b*", Scope.EXACT)),
        ("a/it's", ChangeKind.CONTENT, (f"{BASE}a/it*", Scope.EXACT)),
        ("a/~b/c/d", ChangeKind.CONTENT, (f"{BASE}a/*", Scope.EXACT)),
        ("a/b~c/", ChangeKind.SUBTREE_DELETED, (f"{BASE}a/b*", Scope.EXACT)),
        ("a/b/", ChangeKind.SUBTREE_DELETED, (f"{BASE}a/b/", Scope.SUBTREE)),
        # More than the site lets be refreshed: the target refuses it with the reason.
        ("b~c.html", ChangeKind.CONTENT, (f"{BASE}b~c.html", Scope.EXACT)),
        ("~a/b/c", ChangeKind.CONTENT, (f"{BASE}~a/b/c", Scope.EXACT)),
        ("~a/", ChangeKind.SUBTREE_DELETED, (f"{BASE}~a/", Scope.SUBTREE)),
    ],
)
def test_what_cannot_be_asked_for_is_widened(key: str, kind: ChangeKind, need: tuple[str, Scope]) -> None:
    """To what begins so, no further than the site's depth allows; by the quick way of a folder, too."""
    sites = Sites([site(base_urls=[BASE])], targets={"cdn": Joined})
    assert made(sites, key, kind) == [("cdn", *need)]
    url = BASE + key
    assert sites.asked("cdn", url, need[1] if need[0] == url else Scope.EXACT) == need


def test_widening_follows_the_depth_of_the_site() -> None:
    """0 lets everything be refreshed at once; 2 names two folders at least."""
    for depth, address in ((0, f"{BASE}*"), (1, f"{BASE}~a/b/c")):
        sites = Sites([site(base_urls=[BASE], min_directory_depth=depth)], targets={"cdn": Joined})
        assert made(sites, "~a/b/c") == [("cdn", address, Scope.EXACT)]
    sites = Sites([site(base_urls=[BASE], min_directory_depth=2)], targets={"cdn": Joined})
    assert made(sites, "a/b~c") == [("cdn", f"{BASE}a/b~c", Scope.EXACT)]
    assert made(sites, "a/b/c~d") == [("cdn", f"{BASE}a/b/c*", Scope.EXACT)]


def test_nothing_is_widened_above_a_base_url() -> None:
    """A base URL with such a character: whatever its depth, what lies next to it is not the site's."""
    sites = Sites([site(base_urls=[f"{BASE}~a/"], min_directory_depth=0)], targets={"cdn": Joined})
    assert made(sites, "b/c") == [("cdn", f"{BASE}~a/b/c", Scope.EXACT)]


def test_queries_and_any_query_are_widened() -> None:
    """A query with such a character, and a path with any query."""
    sites = Sites([site(base_urls=[BASE], query_variants=["v=~1", "w=2"])], targets={"cdn": Joined})
    assert made(sites, "a/b") == [
        ("cdn", f"{BASE}a/b", Scope.EXACT),
        ("cdn", f"{BASE}a/b?v=*", Scope.EXACT),
        ("cdn", f"{BASE}a/b?w=2", Scope.EXACT),
    ]
    sites = Sites([site(base_urls=[BASE], all_params=True)], targets={"cdn": Joined})
    assert made(sites, "a/b") == [("cdn", f"{BASE}a/b", Scope.ALL_PARAMS)]
    assert made(sites, "a/b~") == [("cdn", f"{BASE}a/b*", Scope.EXACT)]


def test_spellings_that_are_widened_alike_are_one_need() -> None:
    """What two spellings of a name have as their address is requested once."""
    sites = Sites([site(base_urls=[BASE], spellings=["strict"])], targets={"cdn": Joined})
    assert made(sites, "a/b~'") == [("cdn", f"{BASE}a/b*", Scope.EXACT)]


def test_names_of_a_folder_are_apart() -> None:
    """What is recorded by folder leaves out names that are widened, and folders whose names all are."""
    sites = Sites([site(base_urls=[BASE])], targets={"cdn": OwnHosts})
    folder = sites.folder("www", "a/")
    assert folder is not None
    assert folder.names.fullmatch("x.html") and not folder.names.fullmatch("x~")
    assert sites.folder("www", "a~b/") is None
    with pytest.raises(KeyRejected):
        made(sites, "a/\n")


@given(st.text("ab/~'*%é ", min_size=1, max_size=12).filter(lambda text: not text.startswith("/") and "//" not in text))
def test_an_address_reaches_the_url(key: str) -> None:
    """Each need is of the URL itself, or of a beginning of it below the site's depth."""
    plain, joined = Sites([site(base_urls=[BASE])]), Sites([site(base_urls=[BASE])], targets={"cdn": Joined})
    kind = ChangeKind.SUBTREE if key.endswith("/") else ChangeKind.CONTENT
    try:
        own = made(plain, key, kind)
    except KeyRejected:
        return
    kept = made(joined, key, kind)
    for (_, url, _), (_, address, scope) in zip(own, kept, strict=True):
        if address == url:
            continue
        assert scope is Scope.EXACT and address.endswith("*") and url.startswith(address[:-1])
        assert address.count("/", len(BASE)) >= 1 and not REFUSED.search(address[:-1])
        assert joined.address("cdn", url) == address
