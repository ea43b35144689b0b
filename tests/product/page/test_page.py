"""The status page in a real browser: live, searchable, decisive with a token only, for every eye and every screen."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable

from playwright.sync_api import expect

from tests.product.page.browsing import TOKEN, WAIT_MILLISECONDS, Visit
from tests.stand import Stand

Visits = Callable[..., Visit]
HOSTILE = "<img src=x onerror=window.hacked=1>"
WITH_TOKEN = {"LISTENER_ADMIN__TOKEN": TOKEN}


def created_at(stand: Stand, url: str) -> float:
    """Return when the attempt at this URL was made, in seconds since the epoch."""
    connection = sqlite3.connect(stand.state)
    try:
        return float(connection.execute("SELECT created_at FROM attempt WHERE url = ?", (url,)).fetchone()[0])
    finally:
        connection.close()


def test_a_change_shows_by_itself(stand: Stand, visit: Visits, record_property: Callable[[str, object], None]) -> None:
    """Whoever has the page open sees a change come and go without touching anything."""
    with stand.daemon():
        one = visit()
        page = one.open(stand)
        expect(page.locator("#live-text")).to_have_text("live", timeout=WAIT_MILLISECONDS)
        expect(page.locator("#verdict h1")).to_have_text("Everything is fresh")
        page.evaluate(
            """() => new MutationObserver(() => {
              if (!window.seenAt && document.getElementById("recent").textContent.includes("a.html"))
                window.seenAt = Date.now() / 1000;
            }).observe(document.getElementById("recent"), { subtree: true, childList: true, characterData: true })"""
        )
        stand.write("a.html")
        one.row("recent", "a.html").get_by_text("complete").wait_for()
        expect(page.locator("#verdict h1")).to_have_text("Everything is fresh", timeout=WAIT_MILLISECONDS)
        record_property(
            "seconds from attempt to page", page.evaluate("window.seenAt") - created_at(stand, stand.url("a.html"))
        )
        stand.write("b.html")
        one.row("recent", "b.html")
        expect(page).to_have_title(re.compile("Everything is fresh"), timeout=WAIT_MILLISECONDS)
        assert page.locator("button[form]").count() == 0


def test_what_was_looked_at_stays_as_it_was(stand: Stand, visit: Visits) -> None:
    """News do not close what was opened, nor take what is being typed."""
    with stand.daemon():
        one = visit()
        page = one.open(stand)
        page.locator("#sources summary").click()
        page.get_by_role("textbox", name="URL").fill("half a wor")
        stand.write("a.html")
        one.row("recent", "a.html")
        assert stand.run("pause", "--reason", "the origin moves")[0] == 0
        expect(page.locator("#verdict")).to_contain_text("the origin moves", timeout=WAIT_MILLISECONDS)
        assert page.locator("#sources details").get_attribute("open") is not None
        expect(page.get_by_role("textbox", name="URL")).to_have_value("half a wor")
        expect(page.get_by_role("textbox", name="URL")).to_be_focused()


def test_a_search_explains_whether_a_url_is_stale(stand: Stand, visit: Visits) -> None:
    """By keyboard alone: fresh, stale with its reason and live, not ours, and what can be no URL."""
    stand.order("stuck:slow.html")
    with stand.daemon():
        one = visit()
        page = one.open(stand)
        stand.write("slow.html")
        one.row("stale", "slow.html")

        def ask(url: str) -> None:
            page.get_by_role("textbox", name="URL").fill(url)
            page.get_by_role("textbox", name="URL").press("Enter")
            page.wait_for_url(re.compile(r"\?url="))

        ask(stand.url("slow.html"))
        expect(page.locator("#answer")).to_contain_text("Stale.")
        expect(page.locator("#answer .chip").first).to_have_text("in flight")
        ask(stand.url("other.html"))
        expect(page.locator("#answer")).to_contain_text("Fresh")
        stand.write("other.html")
        expect(page.locator("#answer")).to_contain_text("complete", timeout=WAIT_MILLISECONDS)
        ask("https://elsewhere.example/")
        expect(page.locator("#answer")).to_contain_text("Not ours.")
        ask("https://user:secret@host/")
        expect(page.locator("#answer")).to_contain_text("no URL that can be refreshed")


def test_only_a_token_decides(stand: Stand, visit: Visits) -> None:
    """A refused URL can be sent once more, and what is hopeless forgotten, by whoever signs in."""
    stand.order("malformed:bad")
    with stand.daemon(**WITH_TOKEN):
        stand.write("bad.html")
        stand.write("back\\slash.html")
        one = visit()
        page = one.open(stand)
        page.get_by_label("Token").fill("not the token, by far")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_contain_text("not the token")
        one.sign_in(stand)
        one.row("letters", "bad.html")
        stand.emulator.faults.clear()
        one.row("letters", "bad.html").get_by_role("button", name="Retry").click()
        expect(page.locator(".said")).to_have_text("Sent again: 1")
        one.row("recent", "bad.html").get_by_text("complete").first.wait_for()
        one.row("letters", "slash.html").get_by_role("button", name="Discard").click()
        expect(page.locator("#letters")).to_contain_text("Nothing needs a decision", timeout=WAIT_MILLISECONDS)
        page.get_by_role("textbox", name="URL").fill(stand.url("asked.html"))
        page.get_by_role("button", name="Look up").click()
        page.get_by_role("button", name="Refresh it now").click()
        one.row("recent", "asked.html").get_by_text("requested on the status page").wait_for()
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_label("Token")).to_be_visible()


def test_nothing_hostile_comes_alive(stand: Stand, visit: Visits) -> None:
    """Keys and reasons with markup, quotes, line breaks and turned-around text stand as the text that they are."""
    keys = [f"\\{HOSTILE}.html", '\\"><script>window.hacked=1</script>', "\\new\nline.html", "\\\u202eturned.html"]
    with stand.daemon(**WITH_TOKEN):
        one = visit()
        page = one.sign_in(stand)
        for number, key in enumerate(keys):
            (stand.tree / key.replace("/", "\u2215")).write_text(str(number))
        stand.write(f"{HOSTILE}'\"&.html")
        status, _, err = stand.run("refresh", stand.url("u.html"), "--urgent", "--reason", f"'\"{HOSTILE}")
        assert status == 0, err
        one.row("recent", HOSTILE)
        one.row("recent", "%3Cimg")
        expect(page.locator("#letters li")).to_have_count(len(keys), timeout=WAIT_MILLISECONDS)
        one.row("letters", HOSTILE)
        one.row("letters", "\\new\\nline.html")
        one.row("letters", "\\u202eturned.html")
        page.goto(f"{stand.admin}/?url={HOSTILE}&said={HOSTILE}&count={HOSTILE}")
        expect(page.get_by_role("textbox", name="URL")).to_have_value(HOSTILE)
        expect(page.locator("#answer")).to_contain_text("no URL")
        page.reload()
        assert page.evaluate("window.hacked") is None
        assert page.locator("img").count() == 0
        assert page.locator("script").count() == 1


def test_for_every_eye_and_screen(stand: Stand, visit: Visits) -> None:
    """Light and dark, on a phone and on a desk: no barrier that axe knows as serious, nothing to scroll sideways."""
    stand.order("malformed:bad", "stuck:stuck")
    with stand.daemon(**WITH_TOKEN):
        empty = visit(viewport={"width": 360, "height": 800})
        empty.sign_in(stand)
        assert (empty.barriers(), empty.overflow_pixels()) == ([], 0)
        for key in (f"{'long-' * 40}.html", "bad.html", "stuck.html", "back\\slash.html"):
            stand.write(key)
        empty.row("recent", "long-long-").get_by_text("complete").wait_for()
        for scheme, width in (("light", 360), ("dark", 1280)):
            look_closely(visit(viewport={"width": width, "height": 800}, color_scheme=scheme), stand, scheme)


def look_closely(one: Visit, stand: Stand, scheme: str) -> None:
    """Look at the sign-in and at the page with something in each of its parts."""
    one.open(stand)
    assert (one.barriers(), one.overflow_pixels()) == ([], 0)
    page = one.sign_in(stand)
    page.goto(f"{stand.admin}/?url={stand.url('stuck.html')}")
    for section, text in (("letters", "bad.html"), ("letters", "slash.html"), ("stale", "stuck.html")):
        one.row(section, text)
    page.locator("#sources summary").click()
    page.locator("#answer .chip").first.wait_for()
    assert (one.barriers(), one.overflow_pixels()) == ([], 0)
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    bright = sum(map(int, re.findall(r"\d+", paper)[:3])) > 3 * 128
    assert bright == (scheme == "light")


def test_the_page_comes_back(stand: Stand, visit: Visits) -> None:
    """A page that stays open while the daemon starts again is live again by itself."""
    one = visit()
    with stand.daemon():
        page = one.open(stand)
        expect(page.locator("#live-text")).to_have_text("live", timeout=WAIT_MILLISECONDS)
    expect(page.locator("#live-text")).not_to_have_text("live", timeout=WAIT_MILLISECONDS)
    with stand.daemon():
        expect(page.locator("#live-text")).to_have_text("live", timeout=2 * WAIT_MILLISECONDS)
        stand.write("a.html")
        one.row("recent", "a.html")


def test_without_token_script_or_mouse(stand: Stand, visit: Visits) -> None:
    """Without a token nobody decides; without script all is shown; the first that Tab reaches leads to the content."""
    stand.order("malformed:bad")
    with stand.daemon():
        stand.write("bad.html")
        one = visit()
        page = one.open(stand)
        one.row("letters", "bad.html")
        assert page.locator("#letters .decide").count() == 0
        expect(page.locator("#letters")).to_contain_text("admin.token")
        assert page.request.post(f"{stand.admin}/retry", form={"subject": "x"}).status == 403
        plain = visit(java_script_enabled=False)
        plain.open(stand)
        plain.row("letters", "bad.html")
        page.reload()
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
        page.keyboard.press("Tab")
        expect(page.get_by_role("textbox", name="URL")).to_be_focused()
