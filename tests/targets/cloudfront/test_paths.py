"""Which path a URL is asked for by, and what cannot be asked for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from listener.errors import BatchRejected
from listener.refresh import RefreshKind
from listener.targets.cloudfront.paths import MOST_PATH_CHARACTERS, nameable, path_of
from tests.targets.cloudfront.conftest import BASE, DIRECTORY, FILE, IGNORE_PARAMS


@pytest.mark.parametrize(
    ("kind", "url", "path"),
    [
        (FILE, "/", "/"),
        (FILE, "/a/b.html?x=1", "/a/b.html?x=1"),
        (FILE, "/a/b*", "/a/b*"),
        (DIRECTORY, "/a/", "/a/*"),
        (DIRECTORY, "/", "/*"),
        (IGNORE_PARAMS, "/x.jpg", "/x.jpg*"),
        (IGNORE_PARAMS, "/x.jpg?w=1", "/x.jpg*"),
        (IGNORE_PARAMS, "/x*", "/x*"),
    ],
)
def test_paths(kind: RefreshKind, url: str, path: str) -> None:
    """Without the host; a * at the end of what is more than one copy."""
    assert path_of(kind, BASE + url) == path


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("/a/b.html", "/a/b.html"),
        ("/a/b~c.html", "/a/b*"),
        ("/~alice/x", "/*"),
        ("/it's.html", "/it*"),
        ("/a*b", "/a*"),
        ("/a%2Ab", "/a*"),
        ("/a%7Eb", "/a*"),
        ("/a%27b", "/a%27b"),
        ("/a*", "/a*"),
        ("/a?x=~1", "/a?x=*"),
        ("/%E6%97%A5~", "/%E6%97%A5*"),
        (f"/{'a' * 3999}", f"/{'a' * 3999}"),
        (f"/{'a' * 4000}", f"/{'a' * 3998}*"),
        (f"/{'a' * 3997}%E6%97", f"/{'a' * 3997}*"),
    ],
)
def test_what_cannot_be_named_is_widened(url: str, named: str) -> None:
    """To the longest beginning that can, whole escapes only; to do it again changes nothing."""
    assert nameable(BASE + url) == BASE + named
    assert nameable(BASE + named) == BASE + named


@given(st.text("ab~'*%/E6", max_size=30))
def test_a_widened_url_can_be_asked_for(text: str) -> None:
    """It begins as the URL does."""
    url = f"{BASE}/{text}"
    named = nameable(url)
    assert named == url or (named.endswith("*") and url.startswith(named[:-1]))
    path = path_of(FILE, named)
    assert len(path) <= MOST_PATH_CHARACTERS and not set("~'") & set(path) and "*" not in path[:-1]


@pytest.mark.parametrize(("kind", "url"), [(FILE, "/a~b"), (DIRECTORY, "/~alice/"), (IGNORE_PARAMS, "/it's")])
def test_what_was_not_widened_is_refused(kind: RefreshKind, url: str) -> None:
    """With the reason, for a person: the router widens nothing beyond a site and its depth."""
    with pytest.raises(BatchRejected, match="min_directory_depth") as refused:
        path_of(kind, BASE + url)
    assert refused.value.urls == {BASE + url}
