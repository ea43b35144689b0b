"""What ``cdn-listener init`` writes: a commented configuration, credentials, and the files of each way to run it."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from configparser import ConfigParser
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import tomli_w

from listener.configuration import expanded
from listener.contracts import TARGET_NAME, Credential
from listener.files import PRIVATE, create_file

__all__ = ["Answers", "compose", "configuration", "credential_files", "drop_in", "tables", "write"]

READABLE: Final = 0o644
PRIVATE_DIRECTORY: Final = 0o700
CONTAINER_USER: Final = 65532
"""The user of the container image; see config/container/Containerfile."""
_ONE_ITEM: Final = re.compile(r"\[\n +([^ \n].*),\n\]")
"""A list of one item, which reads better in one line."""
_SHIPPED_CREDENTIALS: Final = {"access-key-id", "access-key-secret"}
"""Those that the shipped unit loads."""


@dataclass(kw_only=True)
class Answers:
    """Everything that is known when the files are written."""

    source: str
    """A path, ``s3://…`` or ``oss://…``."""
    base_url: str
    cdn: str
    source_settings: dict[str, Any] = field(default_factory=dict)
    target_settings: dict[str, Any] = field(default_factory=dict)
    secrets: dict[Credential, str] = field(default_factory=dict)
    missing: list[Credential] = field(default_factory=list)
    is_rehearsal: bool = False
    """The API is on this machine: an emulator."""
    admin: dict[str, Any] = field(default_factory=dict)

    @property
    def scheme(self) -> str:
        """``file``, ``s3`` or ``oss``."""
        scheme, separator, _ = self.source.partition("://")
        return scheme if separator else "file"

    @property
    def prefix(self) -> str:
        """What the keys of the site begin with."""
        return self.source.partition("://")[2].partition("/")[2]


def tables(answers: Answers, *, state: str) -> dict[str, Any]:
    """Return the configuration as plain data; ``state`` is the URL of the state file, empty for the default."""
    name = "www" if answers.scheme == "file" else "bucket"
    place = {"type": "filesystem", "path": answers.source}
    if answers.scheme != "file":
        place = {"type": "listing", "url": answers.source}
    site = {"source": name, "target": TARGET_NAME, "base_urls": [answers.base_url]}
    return {
        **({"store": {"url": state}} if state else {}),
        **({"verifier": {"first_seconds": 2, "interval_seconds": 1}} if answers.is_rehearsal else {}),
        **({"admin": answers.admin} if answers.admin else {}),
        "sources": {name: {**place, **answers.source_settings}},
        "targets": {TARGET_NAME: {"type": answers.cdn, **answers.target_settings}},
        "sites": [{**site, **({"prefix": answers.prefix} if answers.prefix else {})}],
    }


def configuration(answers: Answers, *, state: str) -> str:
    """Return the text of the configuration, with what each table means."""
    found = tables(answers, state=state)
    [(name, source)] = found["sources"].items()
    return "\n".join(_lines(answers, found, name, source))


def _lines(answers: Answers, found: Mapping[str, Any], name: str, source: Mapping[str, Any]) -> Iterator[str]:
    yield "# Written by `cdn-listener init`. `cdn-listener config show` prints every setting with its value."
    yield from _table("store", found.get("store"), "The state file: what is stale, what was sent, what was spent.")
    yield from _table("verifier", found.get("verifier"), "An emulator is faster than a CDN: look at its tasks sooner.")
    yield from _table("admin", found.get("admin"), "The status page and the probes, also from outside the container.")
    if answers.scheme == "file":
        yield from _table(f"sources.{name}", source, "Where the files are. Every change below it is noticed.")
    else:
        yield from _table(
            f"sources.{name}",
            source,
            "The bucket is listed once a day (interval_seconds). To learn of each change within seconds, let it report",
            "its changes to a queue: docs/sources/sqs.md for S3, docs/sources/mns.md for OSS.",
        )
    yield from _table(f"targets.{TARGET_NAME}", found["targets"][TARGET_NAME], *_about_credentials(answers))
    yield from _table(
        "[sites]", found["sites"][0], "What is served where. A file a/b.html has the URL <base URL>a/b.html."
    )


def _about_credentials(answers: Answers) -> list[str]:
    variables = [one.variable for one in (*answers.secrets, *answers.missing)]
    lines = ["Which CDN is refreshed."]
    if variables:
        lines.append(
            "Credentials never stand in this file: they are in the folder `credentials`, or in the environment:"
        )
        lines.append(", ".join(variables) + ".")
    return lines


def _table(name: str, values: Mapping[str, Any] | None, *comments: str) -> Iterator[str]:
    if values:
        yield ""
        yield from (f"# {line}" for line in comments)
        yield f"[{name}]"
        yield _ONE_ITEM.sub(r"[\1]", tomli_w.dumps(values).rstrip())


def credential_files(secrets: Mapping[Credential, str]) -> dict[str, str]:
    """Return the content of each file of credentials by name."""
    found = {one.file: value + "\n" for one, value in secrets.items() if not one.profile_key}
    profiles: dict[str, dict[str, str]] = {}
    for one, value in secrets.items():
        if one.profile_key:
            profiles.setdefault(one.file, {})[one.profile_key] = value
    for name, keys in profiles.items():
        profile = ConfigParser(interpolation=None)
        profile["default"] = keys
        text = io.StringIO()
        profile.write(text)
        found[name] = text.getvalue()
    return found


def drop_in(credentials: Sequence[Credential], directory: Path, group: str) -> str:
    """Return what the unit needs beyond the shipped one; empty where that is enough."""
    lines = []
    files = {one.file: one.systemd_name for one in credentials}
    if set(files) != _SHIPPED_CREDENTIALS:
        lines.append("LoadCredential=")
        lines += [f"LoadCredential={name}:{directory / file}" for file, name in files.items()]
    if group:
        lines += ["# Members of this group may use the admin socket.", f"Group={group}"]
    return "\n".join(["# Written by `cdn-listener init`.", "[Service]", *lines, ""]) if lines else ""


def compose(answers: Answers, folder: Path, *, is_podman: bool) -> str:
    """Return ``compose.yaml`` for the configuration in this folder; its user can read what is mounted."""
    user = os.geteuid() or CONTAINER_USER
    group = os.getegid() or CONTAINER_USER
    mounts = [f"{folder}:/etc/cdn-listener:ro", f"{folder / 'state'}:/var/lib/cdn-listener"]
    if answers.scheme == "file":
        mounts.append(f"{answers.source}:{answers.source}:ro")
    lines = [
        "# Written by `cdn-listener init`. To build the image, in the clone:",
        "#   podman build -f config/container/Containerfile -t cdn-listener .",
        "services:",
        "  cdn-listener:",
        "    image: cdn-listener",
        "    restart: unless-stopped",
        "    read_only: true",
        "    cap_drop: [ALL]",
        f'    user: "{user}:{group}"  # who may read the credentials',
        *(["    userns_mode: keep-id"] if is_podman and os.geteuid() else []),
        *(["    network_mode: host  # the emulator is on this machine"] if answers.is_rehearsal else []),
        *([] if answers.is_rehearsal else ['    ports: ["127.0.0.1:9180:9180"]']),
        "    stop_grace_period: 45s",
        "    volumes:",
        *(f"      - {_quoted(mount)}" for mount in mounts),
        "",
    ]
    return "\n".join(lines)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def write(path: Path, text: str, *, mode: int = READABLE, owner: int | None = None) -> None:
    """
    Make a new file with its directories; those of credentials are closed to others.

    Raises:
        OSError: it exists, or cannot be made.
    """
    directory = expanded(path).parent
    if not directory.exists():
        directory.mkdir(parents=True)
        if mode == PRIVATE:
            directory.chmod(PRIVATE_DIRECTORY)
            if owner is not None:
                os.chown(directory, owner, owner)
    descriptor = create_file(path, mode=mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    if owner is not None:
        os.chown(path, owner, owner)


def is_group(name: str) -> bool:
    """Return whether a text can name a group of the machine."""
    return bool(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}", name))
