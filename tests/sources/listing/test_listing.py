"""Listings: every key once, in byte order, from any key on."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from listener.backfill import choose_source, parse_modes, parse_moment
from listener.change import ChangeKind, key_to_bytes
from listener.errors import ConfigurationError
from listener.settings import parse_settings
from listener.sources.filesystem import FilesystemSettings
from listener.sources.listing import KeyList, Listing, TreeListing

KEYS = ["a", "a!", "a.b", "a/b", "a/b!", "a/b/c", "a0", "b/", "é", "日本.jpg"]


def tree(root: Path, *names: bytes | str) -> FilesystemSettings:
    """Make files of these names; return the settings of a source of them."""
    for name in names:
        path = root / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    return FilesystemSettings(path=root)


def keys(listing: TreeListing | KeyList, after: str = "") -> list[str]:
    """Return the keys that it lists."""
    return [change.key for change in listing.changes(after)]


def test_a_tree_is_listed_in_byte_order(tmp_path: Path) -> None:
    """Keys come as sorted bytes, whatever the directories, names that are no UTF-8 included."""
    names = [b"a.html", b"a/x", b"a/y/z", b"a!b", b"a-b/c", "日本/b.jpg".encode(), b"\xff\xfe", b"Z"]
    found = keys(TreeListing("www", tree(tmp_path, *names)))
    assert [key_to_bytes(key) for key in found] == sorted(names)


def test_a_listing_goes_on_after_any_key(tmp_path: Path) -> None:
    """Begun after any key it yields exactly the rest: nothing twice, nothing left out."""
    names = ["a!", "a/b", "a/b!", "a/c/d", "a/c0", "b", "b-c/d", "z/z/z"]
    listing = TreeListing("www", tree(tmp_path, *names))
    whole = keys(listing)
    assert len(whole) == len(names)
    for at, key in enumerate(whole):
        assert keys(listing, key) == whole[at + 1 :]
    for between in ("a/", "a/c/", "a/bb", "q"):
        assert keys(listing, between) == [key for key in whole if key > between]


def test_a_listing_knows_what_is_no_content(tmp_path: Path) -> None:
    """What `ignore` names and what is no regular file is left out; a link to a file counts, and so does any name."""
    settings = tree(tmp_path, "a.html", "b.part", ".a.html.swp", "cache/x", "d/e.bak")
    settings = settings.model_copy(update={"ignore": ("cache/", "*.bak")})
    (tmp_path / "link").symlink_to("a.html")
    (tmp_path / "broken").symlink_to("missing")
    (tmp_path / "loop").symlink_to("/")
    os.mkfifo(tmp_path / "pipe")
    assert keys(TreeListing("www", settings)) == [".a.html.swp", "a.html", "b.part", "link"]


def test_prefix_and_since(tmp_path: Path) -> None:
    """A prefix need not be a folder; --since looks at both times that a change moves."""
    settings = tree(tmp_path, "img/1", "img/2", "img2/3", "other/4", "in")
    assert keys(TreeListing("www", settings, prefix="img")) == ["img/1", "img/2", "img2/3"]
    assert keys(TreeListing("www", settings, prefix="img/")) == ["img/1", "img/2"]
    assert keys(TreeListing("www", settings, prefix="img/2")) == ["img/2"]
    assert keys(TreeListing("www", settings, prefix="nothing/")) == []
    changed_at = (tmp_path / "in").stat().st_ctime
    assert len(keys(TreeListing("www", settings, since=changed_at - 60))) == 5
    assert keys(TreeListing("www", settings, since=changed_at + 60)) == []


def test_a_missing_tree_is_reported(tmp_path: Path) -> None:
    """It is never taken for an empty one."""
    with pytest.raises(ConfigurationError, match=r"sources\.www\.path"):
        keys(TreeListing("www", FilesystemSettings(path=tmp_path / "nowhere")))


@given(st.lists(st.sampled_from(KEYS)), st.sampled_from(["", *KEYS]))
def test_keys_from_a_list_are_sorted_and_stand_once(lines: list[str], after: str) -> None:
    """Duplicates and empty keys do not matter."""
    raw = [line.encode() for line in lines for _ in range(2)] + [b""]
    wanted = sorted({line for line in lines if line.encode() > after.encode()}, key=str.encode)
    with closing(KeyList("www", raw)) as listing:
        assert keys(listing, after) == wanted


def test_keys_are_looked_up_where_that_is_possible(tmp_path: Path) -> None:
    """What is there comes with its fingerprint, what is not as deleted, a folder as a subtree."""
    tree(tmp_path, "a")
    with closing(KeyList("www", [b"a", b"gone", b"d/", b"n\0l"], tree=tmp_path)) as listing:
        found = {change.key: change for change in listing.changes()}
    assert found["a"].fingerprint is not None
    assert found["a"].fingerprint.size_bytes == 1
    assert found["gone"].kind is ChangeKind.DELETED
    assert found["d/"].kind is ChangeKind.SUBTREE
    assert found["n\0l"].kind is ChangeKind.CONTENT


def test_the_digest_names_the_listing(tmp_path: Path) -> None:
    """The same listing has the same digest, every other one another."""
    settings = FilesystemSettings(path=tmp_path)
    listings: list[Listing] = [
        TreeListing("www", settings),
        TreeListing("web", settings),
        TreeListing("www", settings, prefix="a/"),
        TreeListing("www", settings, since=1.0),
        KeyList("www", [b"a"]),
        KeyList("www", [b"a", b"b"]),
    ]
    assert len({listing.digest() for listing in listings}) == len(listings)
    same = [KeyList("www", [b"b", b"a"]), KeyList("www", [b"a", b"b", b"a"])]
    assert len({listing.digest() for listing in same}) == 1
    for listing in (*listings, *same):
        listing.close()


def test_words_for_times_and_modes() -> None:
    """Spans and ISO 8601, in UTC without a zone; unknown words are refused with the choices."""
    assert parse_moment("90m", now=10_000.0) == 4_600.0
    assert parse_moment("1.5h", now=10_000.0) == 4_600.0
    assert parse_moment("1970-01-02", now=0) == 86_400.0
    assert parse_moment("1970-01-01T08:00+08:00", now=0) == 0.0
    assert [mode.value for mode in parse_modes("prefetch, refresh,refresh")] == ["prefetch", "refresh"]
    for wrong in ("yesterday", "", "d", "-3d"):
        with pytest.raises(ConfigurationError):
            parse_moment(wrong, now=0)
    for wrong in ("", "purge", "refresh,purge"):
        with pytest.raises(ConfigurationError, match="mode"):
            parse_modes(wrong)


def test_the_source_is_chosen_or_asked_for() -> None:
    """A name is checked; without one only a single source can be meant."""
    table = {
        "sources": {name: {"type": "filesystem", "path": "/"} for name in ("www", "img")},
        "targets": {"cdn": {"type": "alibaba-cdn"}},
        "sites": [{"source": name, "target": "cdn", "base_urls": [f"https://{name}.test/"]} for name in ("www", "img")],
    }
    assert choose_source(parse_settings(table, {}), "img") == "img"
    assert choose_source(parse_settings(table, {}), None) is None
    assert choose_source(parse_settings({**table, "sites": table["sites"][:1]}, {}), None) == "www"
    with pytest.raises(ConfigurationError, match="'wwe'"):
        choose_source(parse_settings(table, {}), "wwe")
