"""The URL spellings of a key are those that a real browser sends."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from playwright.sync_api import Browser

from listener.change import Change
from listener.errors import KeyRejected
from listener.router import Router
from listener.settings import Site
from listener.urls import normal_url

KEYS = 3_000
CHARACTERS = "abC019-._~!$&'()*+,;=:@[]|^`{}<>\" %é\u0301日😀" + "/"

SEND = """keys => keys.map(key => {
    const link = document.createElement('a');
    link.setAttribute('href', 'http://h/' + key);
    const component = key.split('/').map(encodeURIComponent).join('/');
    return [link.pathname.slice(1), component];
})"""


def a_router(spelling: str) -> Router:
    """Return the router of a site with one further spelling."""
    keys = {"source": "www", "target": "cdn", "base_urls": ["http://h/"], "spellings": [spelling]}
    return Router([Site.model_validate({**keys, "index_documents": []})])


def test_what_chromium_sends_is_refreshed(
    launch: Callable[[str], Browser], system_command: Callable[[str], str]
) -> None:
    """
    A link to a key as it is written, and one that ``encodeURIComponent`` made: what the browser requests is one of the
    key's addresses, and a URL that is copied from it is taken as it is.
    """
    chance = random.Random(12)
    keys = ["x" + "".join(chance.choices(CHARACTERS, k=chance.randint(1, 12))) for _ in range(KEYS)]
    page = launch(system_command("chromium")).new_page()
    sent: list[Any] = page.evaluate(SEND, keys)
    page.context.close()
    plain, component = a_router("browser"), a_router("encoded")
    compared = differing = 0
    for key, (linked, encoded) in zip(keys, sent, strict=True):
        try:
            urls = [need.url for need in plain.route(Change("www", key))]
            others = [need.url for need in component.route(Change("www", key))]
        except KeyRejected:
            continue
        assert f"http://h/{encoded}" in others, key
        assert normal_url(f"http://h/{encoded}") == f"http://h/{encoded}"
        if "%" in key or "/." in key or key.endswith(" "):
            continue  # a link that the browser reads otherwise than the key is written: nobody links it so
        compared += 1
        differing += linked != urls[0].removeprefix("http://h/")
        assert f"http://h/{linked}" in urls, key
        assert normal_url(f"http://h/{linked}") == f"http://h/{linked}"
    assert compared > KEYS / 3
    assert differing > KEYS / 20
