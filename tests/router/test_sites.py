"""Sites: which needs a change makes, in which order, and which storage lies below a URL."""

from __future__ import annotations

from typing import Any

import pytest

from listener.change import Change, ChangeKind
from listener.errors import KeyRejected
from listener.refresh import Scope
from listener.router import RoutedNeed, Router
from listener.router import routing as routing_module
from listener.settings import Site


def site(**keys: Any) -> Site:
    """Return a site of the smallest form, with these keys on top."""
    return Site.model_validate({"source": "www", "target": "cdn", "base_urls": ["https://a.example/"], **keys})


def urls(router: Router, key: str, kind: ChangeKind = ChangeKind.CONTENT) -> list[str]:
    """Return the URLs of a change."""
    return [need.url for need in router.route(Change("www", key, kind))]


def test_a_change_makes_a_need_in_every_layer_and_base_inner_layer_first() -> None:
    """Two targets with two bases each: four needs, in the layer order of the configuration."""
    both = {"target": None, "targets": ["inner", "outer"], "base_urls": ["https://a.example/", "https://b.example/x/"]}
    assert Router([site(**both)]).route(Change("www", "k")) == [
        RoutedNeed("inner", "https://a.example/k", Scope.EXACT, 0, 0),
        RoutedNeed("inner", "https://b.example/x/k", Scope.EXACT, 0, 0),
        RoutedNeed("outer", "https://a.example/k", Scope.EXACT, 0, 1),
        RoutedNeed("outer", "https://b.example/x/k", Scope.EXACT, 0, 1),
    ]


def test_the_prefix_is_cut_off_and_keys_outside_are_nobodys() -> None:
    """Only keys below the prefix are taken, and served without it; a bad key outside is not even looked at."""
    router = Router([site(prefix="public")])
    assert urls(router, "public/a/b") == ["https://a.example/a/b"]
    assert urls(router, "publicity/a") == []
    assert urls(router, "private/\n") == []
    with pytest.raises(KeyRejected):
        urls(router, "public/\n")


def test_another_sources_changes_are_not_taken() -> None:
    """A change of a root that no site names makes no need, also for a subtree."""
    router = Router([site()])
    assert router.route(Change("other", "a")) == []
    assert router.route(Change("other", "a/", ChangeKind.SUBTREE)) == []


@pytest.mark.parametrize(
    ("include", "exclude", "key", "taken"),
    [
        (["**"], ["**/*.tmp"], "a.tmp", False),
        (["**"], ["**/*.tmp"], "d/e/a.tmp", False),
        (["**"], ["**/*.tmp"], "a.tmp/b", True),
        (["*.html"], [], "a.html", True),
        (["*.html"], [], "d/a.html", False),
        (["img/**", "css/*.css"], [], "img/d/e.png", True),
        (["img/**", "css/*.css"], [], "css/d/e.css", False),
        (["d/?.js"], [], "d/a.js", True),
        (["d/?.js"], [], "d//.js", False),
        (["[a-c]*"], [], "b1", True),
        (["[!a-c]*"], [], "b1", False),
        (["a[!x]b"], [], "a/b", False),
        (["a**b"], [], "a/x/b", True),
        (["d/**/e"], [], "d/e", True),
        (["d/**/e"], [], "d/x/y/e", True),
        (["x.y"], [], "xzy", False),
        (["**"], ["日本/**"], "日本/a\udcff", False),
    ],
)
def test_patterns_choose_keys(include: list[str], exclude: list[str], key: str, taken: bool) -> None:
    """A key is taken when it matches an include pattern, whole, and no exclude pattern."""
    assert bool(urls(Router([site(include=include, exclude=exclude)]), key)) is taken


def test_patterns_see_the_key_without_its_prefix() -> None:
    """Patterns are written as the site sees its keys: below the prefix."""
    router = Router([site(prefix="public/", exclude=["drafts/**"])])
    assert urls(router, "public/drafts/a") == []
    assert urls(router, "public/a") == ["https://a.example/a"]


def test_a_refused_folder_with_patterns_is_refused_only_where_it_is_taken() -> None:
    """A key that no site would take is not parked."""
    router = Router([site(exclude=["tmp/**"])])
    assert urls(router, "tmp/../a") == []
    with pytest.raises(KeyRejected, match="segment"):
        urls(router, "a/../b")


def test_an_index_document_refreshes_its_folder_too() -> None:
    """``a/index.html`` makes needs for itself and ``a/``; other files of that name's ending do not."""
    router = Router([site(index_documents=["index.html", "default.htm"])])
    assert urls(router, "a/index.html") == ["https://a.example/a/index.html", "https://a.example/a/"]
    assert urls(router, "default.htm", ChangeKind.DELETED) == ["https://a.example/default.htm", "https://a.example/"]
    assert urls(router, "a/myindex.html") == ["https://a.example/a/myindex.html"]


def test_query_variants_are_urls_of_their_own() -> None:
    """The plain URL and each configured query are needs, for an index document's folder as well."""
    router = Router([site(query_variants=["w=200", "?q=é", ""])])
    assert urls(router, "i.png") == [f"https://a.example/i.png{tail}" for tail in ("", "?w=200", "?q=%C3%A9")]
    assert len(urls(router, "index.html")) == 6


def test_all_params_is_one_need_for_any_query() -> None:
    """With ``all_params`` the path with whatever query is stale: one need, no variants."""
    (need,) = Router([site(all_params=True, query_variants=["w=200"])]).route(Change("www", "i.png"))
    assert need == RoutedNeed("cdn", "https://a.example/i.png", Scope.ALL_PARAMS, 0, 0)


def test_two_sites_with_one_url_make_one_need() -> None:
    """Where several sites lead to the same URL, the first one's need stands."""
    router = Router([site(), site(include=["a"]), site(base_urls=["https://b.example/"])])
    assert router.route(Change("www", "a")) == [
        RoutedNeed("cdn", "https://a.example/a", Scope.EXACT, 0, 0),
        RoutedNeed("cdn", "https://b.example/a", Scope.EXACT, 2, 0),
    ]


@pytest.mark.parametrize("kind", [ChangeKind.SUBTREE, ChangeKind.SUBTREE_DELETED])
def test_a_subtree_is_a_directory_url_at_each_base(kind: ChangeKind) -> None:
    """A changed or deleted subtree makes a subtree need of its directory URL, below each base."""
    router = Router([site(prefix="p/", base_urls=["https://a.example/", "https://b.example/x/"])])
    assert urls(router, "p/a b/", kind) == ["https://a.example/a%20b/", "https://b.example/x/a%20b/"]
    assert urls(router, "p/a b", kind) == urls(router, "p/a b/", kind)


@pytest.mark.parametrize("key", ["", "p/", "p/q/"])
def test_a_subtree_above_a_site_is_the_whole_site(key: str) -> None:
    """When what holds the site's prefix changed, the site's base itself is stale."""
    assert urls(Router([site(prefix="p/q/")]), key, ChangeKind.SUBTREE) == ["https://a.example/"]


def test_a_subtree_outside_of_a_site_or_excluded_whole_makes_no_need() -> None:
    """A subtree next to the prefix, or below an excluded folder, is nobody's; one that is excluded in part is taken."""
    router = Router([site(prefix="p/", exclude=["tmp/**", "**/*.bak"])])
    assert urls(router, "q/", ChangeKind.SUBTREE) == []
    assert urls(router, "p/tmp/x/", ChangeKind.SUBTREE) == []
    assert urls(router, "p/a/", ChangeKind.SUBTREE) == ["https://a.example/a/"]


def test_the_storage_below_a_directory_url_is_found() -> None:
    """Below a base: the folder; above bases: each whole site; of another target or host: nothing."""
    router = Router(
        [
            site(prefix="p/", base_urls=["https://a.example/x/"]),
            site(source="img", base_urls=["https://a.example/x/i/", "https://b.example/"]),
            site(source="other", target="cdn2"),
        ]
    )
    assert router.key_prefixes("cdn", "https://a.example/x/%E6%97%A5/") == [("www", "p/日/")]
    assert router.key_prefixes("cdn", "https://a.example/") == [("www", "p/"), ("img", "")]
    assert router.key_prefixes("cdn", "https://a.example/x/i/d/") == [("www", "p/i/d/"), ("img", "d/")]
    assert router.key_prefixes("cdn", "https://c.example/") == []


def test_a_directory_url_keeps_the_blast_radius_of_every_site_it_touches() -> None:
    """Deep enough below every base that it lies under, never above one, and never at nobody's."""
    router = Router(
        [
            site(min_directory_depth=0),
            site(source="img", base_urls=["https://a.example/i/"], min_directory_depth=2),
            site(source="b", base_urls=["https://b.example/"]),
        ]
    )
    allowed = {
        "https://b.example/": False,
        "https://b.example/d/": True,
        "https://a.example/": False,
        "https://a.example/d/": True,
        "https://a.example/i/": False,
        "https://a.example/i/d/": False,
        "https://a.example/i/d/e/": True,
        "https://c.example/d/": False,
    }
    assert {url: router.depth_floor("cdn", url) for url in allowed} == allowed
    assert not router.depth_floor("cdn2", "https://b.example/d/")


def test_targets_of_one_account_answer_for_one_another() -> None:
    """A directory refresh of one target keeps the blast radius of every site that its account serves there."""
    router = Router([site(min_directory_depth=0), site(source="img", target="other", min_directory_depth=2)])
    assert router.depth_floor("cdn", "https://a.example/d/")
    assert not router.depth_floor(["cdn", "other"], "https://a.example/d/")
    assert router.key_prefixes(["cdn", "other"], "https://a.example/d/") == [("www", "d/"), ("img", "d/")]


def test_the_memory_of_folders_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many folders pass, only so many are remembered, and routes stay right."""
    monkeypatch.setattr(routing_module, "MAX_FOLDERS", 10)
    router = Router([site()])
    for number in range(100):
        assert urls(router, f"{number}/f") == [f"https://a.example/{number}/f"]
        assert len(router._folders) <= 10
