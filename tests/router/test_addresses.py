"""A site maps a key to addresses: endings, patterns, spellings, and the directory of what is too long to be named."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote, unquote, unquote_to_bytes

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from listener.alibaba.paths import require_plain
from listener.change import Change, ChangeKind, key_to_text
from listener.errors import KeyRejected
from listener.refresh import RefreshKind, Scope
from listener.router import MAX_URL_BYTES, Router
from listener.router.routing import Sites
from listener.settings import Site
from listener.urls import normal_url

BASE = "https://a.example/"
CLEAN = {"strip_suffixes": [".html"]}
GZ = {"also": ["{path}.gz -> {path}"]}


def site(**keys: Any) -> Site:
    """Return a site of the smallest form, with these keys on top."""
    return Site.model_validate({"source": "www", "target": "cdn", "base_urls": [BASE], **keys})


def paths(key: str, kind: ChangeKind = ChangeKind.CONTENT, **keys: Any) -> list[str]:
    """Return the URLs of a change below the base, directories marked by a star."""
    needs = Router([site(**keys)]).route(Change("www", key, kind))
    return [need.url.removeprefix(BASE) + ("*" if need.scope is Scope.SUBTREE else "") for need in needs]


@pytest.mark.parametrize("kind", [ChangeKind.CONTENT, ChangeKind.DELETED, ChangeKind.METADATA])
@pytest.mark.parametrize(
    ("keys", "key", "expected"),
    [
        (CLEAN, "about.html", ["about.html", "about"]),
        (CLEAN, "blog/index.html", ["blog/index.html", "blog/", "blog", "blog/index"]),
        (CLEAN, "index.html", ["index.html", "", "index"]),
        (CLEAN, "a.css", ["a.css"]),
        (CLEAN, "d/.html", ["d/.html"]),
        (CLEAN, "d/...html", ["d/...html"]),
        (CLEAN, "d/%2e.html", ["d/%252e.html"]),
        ({"strip_suffixes": [".html", ".de.html"]}, "a.de.html", ["a.de.html", "a.de", "a"]),
        ({"strip_suffixes": ".htm", "index_documents": []}, "b/index.htm", ["b/index.htm", "b/index"]),
        (CLEAN, "b//index.html", ["b//index.html", "b//", "b/", "b//index"]),
        (GZ, "app.css.gz", ["app.css.gz", "app.css"]),
        (GZ, "d/index.html.gz", ["d/index.html.gz", "d/index.html", "d/"]),
        ({**GZ, **CLEAN}, "a.html.gz", ["a.html.gz", "a.html", "a"]),
        (GZ, ".gz", [".gz"]),
        (GZ, "d/...gz", ["d/...gz"]),
        (GZ, "app.css", ["app.css"]),
        ({"also": ["img/{path}.png -> thumbs/{path}@2x.webp"]}, "img/a/b.png", ["img/a/b.png", "thumbs/a/b@2x.webp"]),
        ({"also": ["posts/{path} -> feed.xml", "/old -> /new"]}, "posts/1", ["posts/1", "feed.xml"]),
        ({"also": ["posts/{path} -> feed.xml", "/old -> /new"]}, "old", ["old", "new"]),
        ({"also": ["home.md -> /"]}, "home.md", ["home.md", ""]),
        ({"also": ["{path}.md -> {path}/"], "prefix": "site/"}, "site/a b.md", ["a%20b.md", "a%20b/"]),
        ({}, "photo[1].jpg", ["photo%5B1%5D.jpg", "photo[1].jpg"]),
        ({}, "[slug]/page.js", ["%5Bslug%5D/page.js", "[slug]/page.js"]),
        ({}, "a|b[c]", ["a%7Cb%5Bc%5D", "a%7Cb[c]", "a|b[c]"]),
        ({}, "C++.txt", ["C++.txt", "C%2B%2B.txt"]),
        ({}, "icon@2x, 'x'.png", ["icon@2x,%20'x'.png"]),
        ({"spellings": []}, "a[1]+.jpg", ["a%5B1%5D+.jpg"]),
        ({"spellings": "encoded"}, "a@2x,(1).png", ["a@2x,(1).png", "a%402x%2C(1).png"]),
        ({"spellings": ["strict"]}, "a@2x,(1).png", ["a@2x,(1).png", "a%402x%2C%281%29.png"]),
        ({"spellings": ["nfc", "nfd"]}, "\u00e9", ["%C3%A9", "e%CC%81"]),
        ({"spellings": ["nfc", "nfd"]}, "e\u0301/e", ["e%CC%81/e", "%C3%A9/e"]),
        ({}, "about/", ["about/"]),
    ],
)
def test_a_key_has_the_addresses_that_the_site_states(
    keys: dict[str, Any], key: str, expected: list[str], kind: ChangeKind
) -> None:
    """Own name first, then what the rules add, each once; deletions and new headers as well as content."""
    assert paths(key, kind, **keys) == expected


@pytest.mark.parametrize(
    ("keys", "folder", "expected"),
    [
        ({}, "a/", ["a/*"]),
        ({}, "", ["*"]),
        (CLEAN, "a/b/", ["a/b/*", "a/b"]),
        (CLEAN, "", ["*"]),
        ({}, "[x]/", ["%5Bx%5D/*", "[x]/*"]),
        (GZ, "a/", ["a/*"]),
        ({"also": ["posts/{path}.md -> articles/{path}"]}, "posts/2026/", ["posts/2026/*", "articles/2026/*"]),
        ({"also": ["posts/{path}.md -> articles/{path}"]}, "posts/", ["posts/*", "articles/*"]),
        ({"also": ["posts/{path}.md -> articles/{path}"]}, "other/", ["other/*"]),
        ({"also": ["posts/{path} -> feed.xml"]}, "posts/2026/", ["posts/2026/*", "feed.xml"]),
        ({"also": ["posts/a.md -> feed.xml"]}, "posts/", ["posts/*", "feed.xml"]),
        ({"also": ["{path}/index.md -> {path}"]}, "a/", ["a/*", "a"]),
        ({"also": ["dist/{path} -> {path}"]}, "dist/", ["dist/*", "*"]),
    ],
)
def test_a_folder_is_refreshed_with_all_its_addresses(keys: dict[str, Any], folder: str, expected: list[str]) -> None:
    """Everything below it, and what its keys are served under elsewhere."""
    assert paths(folder, ChangeKind.SUBTREE_DELETED, **keys) == expected


def test_each_address_is_explained_by_its_rule() -> None:
    """Every rule on the way is named."""
    router = Router([site(**CLEAN, **GZ, query_variants=["w=2"])])
    explained = {need.url.removeprefix(BASE): rule for need, rule in router.explain("www", "[a]/index.html.gz")}
    assert explained["%5Ba%5D/index.html.gz"] == "the key itself"
    assert explained["%5Ba%5D/?w=2"] == "also: {path}.gz -> {path}; index_documents: index.html; query_variants: w=2"
    assert explained["[a]"] == (
        "also: {path}.gz -> {path}; strip_suffixes: the folder without its slash; spellings: browser"
    )
    folder = router.explain("www", "about/")
    assert [(need.scope.name, rule) for need, rule in folder if need.url == BASE + "about/"] == [
        ("EXACT", "the key itself"),
        ("SUBTREE", "the key itself"),
    ]
    assert router.explain("other", "a") == []


# -- too long -------------------------------------------------------------------------------------------------------


def test_a_key_that_is_too_long_for_a_url_is_refreshed_by_its_directory() -> None:
    """The nearest directory whose URL is short enough; where none may be refreshed, the key is refused."""
    name = "长" * 70 + "/" + "文" * 50 + ".html"
    assert paths(name) == [quote("长" * 70) + "/*"]
    assert paths("d/" * 500 + "x" * 30) == ["d/" * 500 + "*"]
    assert paths("top/" + "d" * 1100 + "/", ChangeKind.SUBTREE) == ["top/*"]
    folder = "top/" + "d" * 995
    assert paths(folder + "/index.html", strip_suffixes=[".html"]) == [folder + "/*", folder]
    with pytest.raises(KeyRejected, match="min_directory_depth = 1"):
        paths("文" * 200)
    assert paths("文" * 200, min_directory_depth=0) == ["*"]
    with pytest.raises(KeyRejected, match="min_directory_depth = 2"):
        paths("d/" + "文" * 200, min_directory_depth=2)


def test_the_longest_base_and_query_count() -> None:
    """A name is named at every base, or at none; with its query, too."""
    bases, name = [BASE, BASE + "b" * 100 + "/"], "d/" + "x" * (MAX_URL_BYTES - len(BASE) - 103)
    assert paths(name, base_urls=bases)[0] == name
    assert paths(name + "x", base_urls=bases) == ["d/*", "b" * 100 + "/d/*"]
    assert paths(name, base_urls=bases, query_variants=["w=1"])[0] == "d/*"


# -- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"also": ["{path}.gz"]}, "an arrow"),
        ({"also": ["-> a"]}, "an arrow"),
        ({"also": ["{name}.gz -> {name}"]}, "{name} is unknown"),
        ({"also": ["{path}/{path} -> a"]}, "occurs twice"),
        ({"also": ["a -> {path}"]}, "only after the arrow"),
        ({"also": ["{path} -> {path}?w=2"]}, "query_variants"),
        ({"also": ["{path} -> /{path}"]}, "adds no address"),
        ({"strip_suffixes": ["html"]}, "starts with a dot"),
        ({"strip_suffixes": [".a/b"]}, "no slash"),
        ({"spellings": ["raw"]}, "browser"),
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused(keys: dict[str, Any], reason: str) -> None:
    """The message says what is wrong with it."""
    with pytest.raises(ValidationError, match=re.escape(reason)):
        site(**keys)


# -- properties -----------------------------------------------------------------------------------------------------

PIECES = ["a", "b", "index.html", ".html", ".gz", ".", "..", "/", "%2e", "%", "[", "]", "|", "+", "@", ",", "é"]
ODD_PIECES = ["e\u0301", "\\", "\n", "?", "#", " ", "posts/", "文" * 90, key_to_text(b"\xff")]
PIECE = st.sampled_from([*PIECES, *ODD_PIECES])
KEY = st.lists(PIECE, max_size=9).map("".join)
ALSO = ["{path}.gz -> {path}", "posts/{path}.html -> p/{path}", "posts/{path} -> feed", "{path}/index.html -> {path}"]
SITES = st.fixed_dictionaries(
    {
        "index_documents": st.sampled_from([[], ["index.html"]]),
        "strip_suffixes": st.sampled_from([[], [".html"], [".html", ".gz"]]),
        "also": st.lists(st.sampled_from(ALSO), unique=True, max_size=3),
        "spellings": st.lists(
            st.sampled_from(["browser", "plus", "encoded", "strict", "nfc", "nfd"]), unique=True, max_size=6
        ),
        "query_variants": st.sampled_from([[], ["w=1"]]),
        "min_directory_depth": st.sampled_from([0, 1]),
    }
).map(lambda keys: site(**keys))


@given(SITES, KEY)
def test_the_quick_way_and_the_explained_way_agree(of: Site, key: str) -> None:
    """What is routed is what ``plan --explain`` prints, also the second time, when the folder is known."""
    assume(not key.endswith("/"))  # of which a folder is explained, too
    router = Router([of])
    try:
        explained = [need for need, _ in router.explain("www", key)]
    except KeyRejected:
        with pytest.raises(KeyRejected):
            router.route(Change("www", key))
        return
    for _ in range(2):
        assert router.route(Change("www", key)) == explained


NAMES = st.sampled_from(["", "a", "ab.html", "a+b,c", "index.html", ".html", "index.htmlx", ".", "..", "x" * 1_100])


@given(st.lists(SITES, min_size=1, max_size=3), KEY, NAMES)
def test_a_plain_name_follows_the_urls_of_its_folder(sites: list[Site], above: str, name: str) -> None:
    """Whatever the sites of a source: a name that its folder calls plain has the needs that routing its key gives."""
    folder = above[: above.rfind("/") + 1]
    chosen = Sites(sites)
    plain = chosen.folder("www", folder)
    if plain is not None and plain.names.fullmatch(name) and len(name) <= plain.longest:
        named = [one._replace(url=one.url + name) for one in plain.inputs]
        assert named == chosen.route(Change("www", folder + name))


def test_which_names_are_plain() -> None:
    """Those without an address of their own are, in a folder whose sites take everything; no query is added to them."""
    rules = {"index_documents": ["index.html"], "strip_suffixes": [".html"], "spellings": ["strict"]}
    plain = Sites([site(**rules), site(base_urls=["https://b.example/c/"], **rules)]).folder("www", "f/")
    assert plain is not None
    assert [one.url for one in plain.inputs] == [BASE + "f/", "https://b.example/c/f/"]
    assert plain.longest == MAX_URL_BYTES - len("https://b.example/c/f/")
    names = ["a.png", "", "index.html", "a.html", "a+b", "é", "..", "index.htm"]
    assert [bool(plain.names.fullmatch(name)) for name in names] == [True, True] + [False] * 5 + [True]
    for others in ([site(query_variants=["w=1"])], [site(also=["{path}.gz -> {path}"])], [site(exclude=["*.tmp"])]):
        assert Sites(others).folder("www", "f/") is None
    assert Sites([site(), site(**rules)]).folder("www", "f/") is None


@given(SITES, KEY)
def test_no_address_is_somebody_elses_request(of: Site, key: str) -> None:
    """
    Every address, whichever rule made it, is one line of plain ASCII below the base that nobody on the way resolves.

    It is sent as it stands: the client takes it, and the normal form of URLs leaves it alone.
    """
    try:
        needs = Router([of]).route(Change("www", key))
    except KeyRejected:
        return
    for need in needs:
        assert need.url.startswith(BASE)
        assert re.fullmatch(r"[!-~]+", need.url)
        path, mark, query = need.url.removeprefix(BASE).partition("?")
        assert not mark or (query == "w=1" and need.scope is Scope.EXACT)
        assert not {"#", "\\", "?"} & set(path)
        require_plain(RefreshKind.DIRECTORY if need.scope is Scope.SUBTREE else RefreshKind.FILE, [need.url])
        assert normal_url(need.url) == need.url
        decoded, before = path, ""
        while decoded != before:
            assert not {".", ".."} & set(decoded.replace("\\", "/").split("/"))
            before, decoded = decoded, unquote(decoded)


@given(SITES, KEY, st.data())
def test_a_folders_addresses_cover_those_of_every_key_below_it(of: Site, key: str, data: st.DataObject) -> None:
    """Whatever lies in a folder: each of its addresses is below a directory, or is a URL, that the folder names."""
    cuts = [0, *(at + 1 for at, character in enumerate(key) if character == "/")]
    folder = key[: data.draw(st.sampled_from(cuts))]
    router = Router([of])
    try:
        below = router.route(Change("www", key))
        named = router.route(Change("www", folder, ChangeKind.SUBTREE))
    except KeyRejected:
        assume(False)
    directories = tuple(need.url for need in named if need.scope is Scope.SUBTREE)
    exact = {need.url for need in named if need.scope is not Scope.SUBTREE}
    for need in below:
        assert need.url.startswith(directories) or need.url in exact


@given(st.text(st.characters(codec="utf-8", exclude_characters="\\/", exclude_categories=["Cc"]), min_size=1))
def test_the_strict_spelling_is_pythons(name: str) -> None:
    """``urllib.parse.quote`` writes the same path, and it decodes to the name's bytes."""
    try:
        found = paths(name, spellings=["strict"])
    except KeyRejected:
        return
    assume(len(found[-1]) < MAX_URL_BYTES - len(BASE))
    assert found[-1] == quote(name)
    assert {unquote_to_bytes(path) for path in found} == {name.encode()}
