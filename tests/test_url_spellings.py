"""URLs as another party spells them: recognized where it is clear which one is meant."""

from __future__ import annotations

import pytest

from listener.urls import Spellings

BASE = "https://www.example.com/"


@pytest.mark.parametrize(
    ("own", "spelled"),
    [
        (BASE + "%C3%A4/a%20b", BASE + "ä/a b"),
        (BASE + "%C3%A4/a%20b", BASE + "%c3%a4/a%20b"),
        (BASE + "a%5Bb%5D", BASE + "a[b]"),
        (BASE + "a~b", BASE + "a%7Eb"),
        (BASE + "a%2Fb", BASE + "a/b"),
        (BASE + "a%23b%3Fc", BASE + "a#b?c"),
        (BASE + "a?b=%26", BASE + "a?b=&"),
        ("https://xn--bcher-kva.example/a", "https://bücher.example/a"),
        ("https://xn--bcher-kva.example:8443/a/", "https://BÜCHER.example:8443/a/"),
        (BASE + "a", "HTTPS://WWW.EXAMPLE.COM/a"),
        (BASE + "a%0Ab", BASE + "a\nb"),
    ],
)
def test_another_spelling_is_recognized(own: str, spelled: str) -> None:
    """Escapes in another case, undone or not needed; raw characters; an international host."""
    assert Spellings([own, BASE + "other"]).find(spelled) == own


@pytest.mark.parametrize("spelled", [BASE + "b", BASE + "a/", BASE + "A", "http://www.example.com/a", "", "a", "://"])
def test_another_url_is_not(spelled: str) -> None:
    """Another path, scheme or case of the path is another URL, and so is what is none."""
    assert Spellings([BASE + "a"]).find(spelled) is None


def test_the_closest_spelling_wins() -> None:
    """``%2F`` and ``/`` are two URLs where both are known; one text that fits two equally well is neither."""
    both = Spellings([BASE + "a%2Fb", BASE + "a/b"])
    assert both.find(BASE + "a%2fb") == BASE + "a%2Fb"
    assert both.find(BASE + "a/b") == BASE + "a/b"
    assert Spellings([BASE + "%26%3D", BASE + "%26="]).find(BASE + "&%3D") is None
