"""Lists of keys as people have them: taken where their meaning is clear, refused with the line's number where not."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from listener.backfill import KeyLines, read_entries
from listener.backfill import lists as lists_module
from listener.errors import ConfigurationError
from listener.settings import Site
from listener.sources.filesystem.names import Ignore

BASE = "https://a.example/"


def site(**keys: object) -> Site:
    """Return a site of the smallest form, with these keys on top."""
    return Site.model_validate({"source": "www", "target": "cdn", "base_urls": [BASE], **keys})


SITES = [
    site(prefix="", strip_suffixes=[".html"], query_variants=["w=2"]),
    site(source="img", base_urls=[BASE + "img/"]),
]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with some files, and one next to it."""
    root = tmp_path / "www"
    for name in ("a.html", "b c.html", "sub/c.html", "sub/index.html", "#x", "x%20y", ' "q" ', "x y"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")
    (tmp_path / "outside.html").write_text("x")
    return root


def keys(text: bytes, *, tree: Path | None = None, null: bool = False) -> list[bytes]:
    """Return the keys of a list."""
    entries = lists_module._entries(io.BytesIO(text), "list", null=null)
    return list(KeyLines(name="list", sites=SITES, source="www", tree=tree, null=null).keys(entries))


def refusal(text: bytes, *, tree: Path | None = None, null: bool = False) -> str:
    """Return why a list is refused."""
    with pytest.raises(ConfigurationError) as caught:
        keys(text, tree=tree, null=null)
    assert caught.value.hint
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", []),
        (b"\xef\xbb\xbfa.html\nb.html", [b"a.html", b"b.html"]),
        (b"\xef\xbb\xbf", []),
        (b"\xef\xbb\xbf\xef\xbb\xbfa.html\n\xef\xbb\xbfb.html", [b"a.html", b"b.html"]),
        (b"a.html\r\nb.html\r\n", [b"a.html", b"b.html"]),
        (b"\n# comment\n#\n#\ttabbed\n\n  \na.html\n\n", [b"a.html"]),
        (b"./a.html\n././b.html\n", [b"a.html", b"b.html"]),
        (b"sub/\n", [b"sub/"]),
        (BASE.encode() + b"a.html\n", [b"a.html"]),
        (BASE.encode() + b"b%20c.html?w=2\nHello World\n", [b"b c.html", b"Hello World"]),
        (BASE.encode() + b"\n" + BASE.encode() + b"sub/\n", [b"index.html", b"sub/index.html"]),
        (BASE.encode() + b"about\n", [b"about"]),
        ("日本.html\n".encode(), ["日本.html".encode()]),
        (b"caf\xe9.html\n", [b"caf\xe9.html"]),
    ],
)
def test_a_line_whose_meaning_is_clear_is_taken(text: bytes, expected: list[bytes]) -> None:
    """Of a bucket: marks, line ends, comments, empty lines, ./ and the URLs of its site."""
    assert keys(text) == expected


def test_paths_of_a_tree_are_relative_to_it(tree: Path) -> None:
    """As ``find`` prints them, absolute, with a leading slash, or as URLs; a file that is gone is a key, too."""
    root = str(tree).encode()
    assert keys(b"/a.html\n/gone.html\n" + root + b"/sub/c.html\n", tree=tree) == [
        b"a.html",
        b"gone.html",
        b"sub/c.html",
    ]
    assert keys(b"sub//c.html\n./sub/./c.html\n", tree=tree) == [b"sub/c.html", b"sub/c.html"]
    assert keys(b'#x\n "q" \nx%20y\n', tree=tree) == [b"#x", b' "q" ', b"x%20y"], "they exist as they stand"
    urls = b"".join(BASE.encode() + one + b"\n" for one in (b"a", b"sub/", b"sub", b"gone/", b"b%20c"))
    expected = [b"a.html", b"sub/index.html", b"sub/index.html", b"gone/index.html", b"b c.html"]
    assert keys(urls, tree=tree) == expected


def test_absolute_paths_match_a_tree_that_is_configured_by_a_relative_path(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ``find "$PWD/www"`` prints them where the source has ``path = "www"``, ``"../www"`` or the name of a link."""
    for directory, path in ((tree.parent, "www"), (tree.parent, "./www/"), (tree / "sub", "../../www"), (tree, ".")):
        monkeypatch.chdir(directory)
        assert keys(f"{tree}/sub/c.html\n{tree}/gone.html\n".encode(), tree=Path(path)) == [b"sub/c.html", b"gone.html"]
        assert "is a file outside of" in refusal(f"{tree.parent}/outside.html\n".encode(), tree=Path(path))
    (tree.parent / "current").symlink_to("www")
    monkeypatch.chdir(tree.parent)
    for line in (f"{tree}/a.html\n", f"{tree.parent}/current/a.html\n"):
        assert keys(line.encode(), tree=Path("current")) == [b"a.html"], "under the link's name, and where it leads"


def test_directories_of_a_tree_are_left_out_and_logged(tree: Path) -> None:
    """What plain ``find .`` prints: the files count, the directories are named once in the log."""
    with capture_logs() as logs:
        assert keys(b".\n./a.html\n./sub\n./sub/c.html\n", tree=tree) == [b"a.html", b"sub/c.html"]
    (left_out,) = logs
    assert (left_out["event"], left_out["directories"], left_out["ignored"]) == ("list.left_out", 2, 0)


def test_what_the_source_ignores_is_left_out(tree: Path) -> None:
    """What ``find`` prints of a git checkout: its own files cost nothing; by file name, folder name and path."""
    lines = KeyLines(name="list", tree=tree, ignore=Ignore([".git/", "*.swp", "build/tmp/**"]))
    listed = [b"./.git/config", b"sub/.git/", b".a.swp", b"build/tmp/x", b"sub/c.html", b"build/a"]
    with capture_logs() as logs:
        assert list(lines.keys(listed)) == [b"sub/c.html", b"build/a"]
    assert logs[0]["ignored"] == 4


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"https://other.example/a.html", "is not below any site's base URL"),
        (b"http://a.example/a.html", f"The base URL is {BASE}"),
        (b"https://a.example/img/a.png", "is served from source img"),
        (b"https://a.example/a.html?x=1", "query_variants"),
        (b"https://a.example/a b", "blank"),
        (b"https://a.example/\xff", "UTF-8"),
        (b"s3://bucket/a.html", "no URL that a CDN serves"),
        (b"HTTPS://a.example/", "no URL that a CDN serves"),
        (b"/a.html", "starts with a slash"),
        (b"../a.html", "leads out"),
        (b"a/../b.html", "leads out"),
        (b".", "the whole storage"),
        (b"./", "the whole storage"),
        (b"#a.html", "a comment or a key"),
        (b'"a.html"', "quoted"),
        (b" a.html", "blanks"),
        (b"a.html\t", "blanks"),
        (b"a.html\0b.html\0", "add -0"),
        (b"a.html\rb.html", "control character"),
        (b"M\ta.html", "control character"),
        ("\u00a0a.html".encode(), "invisible"),
        ("a.html\u200b".encode(), "invisible"),
        (b"a.example/a.html", "without its scheme"),
        (b"//A.example/a.html", "without its scheme"),
    ],
)
def test_a_line_that_cannot_be_meant_is_refused_with_its_number(line: bytes, reason: str) -> None:
    """The number, the line and the reason; the other lines are not used."""
    message = refusal(b"a.html\n" + line + b"\nb.html\n")
    assert "line 2" in message
    assert reason in message


def test_a_line_that_names_something_else_in_a_tree_is_refused(tree: Path) -> None:
    """A file outside, an encoded name, backslashes, a file as a folder: each would be a refresh of nothing."""
    outside = str(tree.parent / "outside.html").encode()
    for line, reason in (
        (outside, "outside of"),
        (b"b%20c.html", "percent-encoded"),
        (b"sub\\c.html", "backslashes"),
        (b"a.html/", "is a file"),
        (b"caf\xe9.html", "not UTF-8"),
        (b"a.html,200", "'a.html' in it"),
        (b"200;sub/c.html;17", "'sub/c.html' in it"),
        (b"d41d8cd98f00b204e9800998ecf8427e  a.html", "'a.html' in it"),
        (b"'a.html'", "'a.html' in it"),
        (b'<a href="/b c.html">', "'b c.html' in it"),
        (b"/a.html?x=1", "'a.html' in it"),
        (b"a.html#top", "'a.html' in it"),
    ):
        assert reason in refusal(line + b"\n", tree=tree)


def test_many_refused_lines_are_counted() -> None:
    """Five are named, of the others their number."""
    message = refusal(b"/a\n" * 12)
    assert message.count("line ") == 5
    assert "7 further lines" in message


def test_entries_that_end_with_nul_are_names(tree: Path) -> None:
    """No comment, quote or blank is anything else than a part of the name; ./ is dropped all the same."""
    text = b'./a.html\0# x\0\0"q"\0 b \0two\nlines\r\0'
    assert keys(text, null=True) == [b"a.html", b"# x", b'"q"', b" b ", b"two\nlines\r"]
    assert keys(b".\0./sub\0./a.html\0", tree=tree, null=True) == [b"a.html"]
    assert keys(b"a.html,gone\0caf\xe9\0", tree=tree, null=True) == [b"a.html,gone", b"caf\xe9"]
    assert keys(b"a.html\0b c.html", null=True) == [b"a.html", b"b c.html"]


def test_lines_are_no_entries_that_end_with_nul() -> None:
    """A list of lines that is read with -0 is refused; a last line end, as an editor adds it, is dropped."""
    assert "no NUL at its end" in refusal(b"a.html\nb.html\n", null=True)
    assert keys(b"a.html\0b.html\0\n", null=True) == [b"a.html", b"b.html"]


def test_what_is_no_list_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """UTF-16, and bytes without any separator, which would fill the memory."""
    assert "UTF-16" in refusal("a.html\n".encode("utf-16"))
    monkeypatch.setattr(lists_module, "MAX_ENTRY_BYTES", 1000)
    assert "no list of keys" in refusal(b"x" * 70_000)
    assert "no list of keys" in refusal(b"a\n" * 40_000, null=True)


@given(st.lists(st.binary(min_size=1, max_size=6).filter(lambda key: b"\0" not in key)), st.integers(1, 9))
def test_any_names_survive_nul_and_any_chunks(names: list[bytes], chunk: int) -> None:
    """However the file is cut into reads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lists_module, "CHUNK_BYTES", chunk)
        text = b"".join(name + b"\0" for name in names)
        assume_mark = text.startswith(b"\xef\xbb\xbf")
        entries = list(lists_module._entries(io.BytesIO(text), "list", null=True))
    if not assume_mark and not text.startswith((b"\xff\xfe", b"\xfe\xff")):
        assert entries == names


@pytest.mark.parametrize(
    ("command", "null"),
    [
        (["find", "."], False),
        (["find", ".", "-type", "f"], False),
        (["find", ".", "-type", "f", "-print0"], True),
        (["find", ".", "-printf", "%P\\n"], False),
        (["find", "{tree}", "-type", "f"], False),
        (["ls", "-R1"], False),
        (["git", "ls-files", "-z"], True),
        (["git", "ls-files"], False),
    ],
)
def test_what_real_tools_print(
    command: list[str], null: bool, tmp_path: Path, system_command: Callable[[str], str]
) -> None:
    """Each file of the tree, and nothing else; ``ls`` prints what no list can be, and is refused."""
    tree = tmp_path / "www"
    wanted = {b"a.html", "sub/日本.html".encode(), b"b c.html"}
    for name in wanted:
        path = tree / name.decode()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    system_command(command[0])
    if command[0] == "git":
        subprocess.run(["git", "-c", "init.defaultBranch=main", "init", "-q"], cwd=tree, check=True)
        subprocess.run(["git", "add", "."], cwd=tree, check=True)
    printed = subprocess.run(
        [part.format(tree=tree) if "{tree}" in part else part for part in command], cwd=tree, check=True,
        capture_output=True,
    ).stdout  # fmt: skip
    if command == ["git", "ls-files"]:
        assert "quoted" in refusal(printed, tree=tree)
        return
    if command[0] == "ls":
        assert "heading of `ls -R`" in refusal(printed, tree=tree)
        return
    assert set(keys(printed, tree=tree, null=null)) == wanted
    shutil.rmtree(tree)


def test_a_file_that_cannot_be_read_is_a_usage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Absent, or a directory; and standard input is read by its dash."""
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(ConfigurationError, match="cannot be read"):
            list(read_entries(path))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\r\nb")))
    assert list(read_entries(Path("-"))) == [b"a", b"b"]
