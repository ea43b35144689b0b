"""The suite of targets refuses targets that would overspend, or be set up by ``init`` in vain."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import SecretStr

from listener.cli.init_files import drop_in
from listener.contracts import (
    Check,
    CheckState,
    Credential,
    KindLimits,
    Questions,
    SettingQuestion,
    TargetBase,
    secret_setting,
)
from listener.errors import NotSent, OutcomeUnknown, Throttled, Unavailable
from listener.refresh import Receipt, RefreshKind
from listener.settings import Section
from listener.testing import TargetConformance


class Service:
    """A CDN in this process: it takes one URL in each request."""

    def __init__(self, target: type[Sending]) -> None:
        self.accepted: list[str] = []
        self.failure = ""
        self.target = target

    def make_target(self) -> Sending:
        made = self.target("cdn", self.target.Settings())
        made.cdn = self
        return made

    def refreshed(self) -> list[str]:
        return self.accepted

    def fail(self, failure: str) -> None:
        self.failure = failure

    def request(self, url: str) -> None:
        """Accept a request, or raise."""
        failure = self.failure
        if failure == "busy":
            raise Throttled("busy", retry_after_seconds=1)
        self.accepted.append(url)
        if failure == "breaks-off":
            self.failure = "busy"
        if failure == "lost":
            self.failure = ""
        if failure in ("dropped", "lost"):
            raise OutcomeUnknown("no answer")


class Sending(TargetBase):
    """A target that does all that it must."""

    class Settings(Section):
        """Its table."""

        token: SecretStr = SecretStr("")

    limits: ClassVar = {RefreshKind.FILE: KindLimits(batch_urls=5), RefreshKind.DIRECTORY: KindLimits(batch_urls=1)}
    cdn: Service | None = None

    async def submit(self, kind: RefreshKind, urls: Sequence[str], *, force: bool, token: str) -> Receipt:
        """Send a request for each URL; what follows an accepted one is unfinished."""
        del kind, force, token
        assert self.cdn
        for number, url in enumerate(urls):
            try:
                self.cdn.request(url)
            except NotSent as error:
                if not number:
                    raise
                return Receipt(unfinished=dict.fromkeys(urls[number:], str(error)))
        return Receipt()

    async def check(self) -> Sequence[Check]:
        """Say nothing of interest."""
        return [Check("cdn", CheckState.OK, "fine")]


class Refunding(Sending):
    """It reports a batch of which a part was accepted as not sent."""

    async def submit(self, kind: RefreshKind, urls: Sequence[str], *, force: bool, token: str) -> Receipt:
        """Send a request for each URL, and let any refusal be that of the batch."""
        del kind, force, token
        assert self.cdn
        for url in urls:
            self.cdn.request(url)
        return Receipt()


class Unfinishing(Refunding):
    """It names a whole batch as unfinished, of which a part was accepted."""

    async def submit(self, kind: RefreshKind, urls: Sequence[str], *, force: bool, token: str) -> Receipt:
        """Let each URL be sent again."""
        try:
            return await super().submit(kind, urls, force=force, token=token)
        except NotSent as error:
            return Receipt(unfinished=dict.fromkeys(urls, str(error)))


class Repeating(Sending):
    """Its HTTP client sends a request again whose answer was lost."""

    async def submit(self, kind: RefreshKind, urls: Sequence[str], *, force: bool, token: str) -> Receipt:
        """Try twice."""
        try:
            return await super().submit(kind, urls, force=force, token=token)
        except OutcomeUnknown:
            return await super().submit(kind, urls, force=force, token=token)


class HopefulForDirectories(Sending):
    """It takes a lost answer about a directory for a request that was not sent."""

    async def submit(self, kind: RefreshKind, urls: Sequence[str], *, force: bool, token: str) -> Receipt:
        """Translate the error."""
        try:
            return await super().submit(kind, urls, force=force, token=token)
        except OutcomeUnknown as error:
            if kind is RefreshKind.DIRECTORY:
                raise Unavailable("no answer") from error
            raise


def suite(target: type[Sending]) -> TargetConformance:
    """Return the suite for this target."""

    class Suite(TargetConformance):
        lost_answer = "lost"
        breaks_off = "breaks-off"
        failures: ClassVar = {"dropped": OutcomeUnknown, "busy": Throttled}

        @asynccontextmanager
        async def service(self) -> AsyncIterator[Service]:
            yield Service(target)

        def make_unreachable_target(self) -> Sending:
            return target("cdn", target.Settings())

    return Suite()


def test_a_batch_that_breaks_off_must_not_be_refunded() -> None:
    """All units of a batch are given back after ``NotSent``, so a part of it must not have been accepted."""
    suite(Sending).test_a_batch_that_breaks_off_is_not_refunded()
    for target in (Refunding, Unfinishing):
        with pytest.raises(AssertionError, match="paid for twice"):
            suite(target).test_a_batch_that_breaks_off_is_not_refunded()


def test_a_request_must_not_be_sent_again_by_the_client() -> None:
    """It would be charged twice, and booked once."""
    with pytest.raises(AssertionError, match="does the HTTP client send a request again by itself"):
        suite(Repeating).test_an_unknown_outcome_can_be_settled_as_declared()


@pytest.mark.parametrize(
    "name", ["test_each_failure_raises_its_error", "test_an_unknown_outcome_can_be_settled_as_declared"]
)
def test_each_kind_is_tried(name: str) -> None:
    """A kind that is sent by other code than the first may take a lost answer for a refusal."""
    getattr(suite(Sending), name)()
    with pytest.raises((AssertionError, Unavailable)):
        getattr(suite(HopefulForDirectories), name)()


class NamedLikeNoSecret(Sending):
    """No file would be read for its key."""

    class Settings(Section):
        """Its table."""

        access_key: SecretStr = SecretStr("")


def test_a_secret_is_named_as_one() -> None:
    """Else its ``…_FILE`` is an unknown key, and its systemd credential is ignored."""
    suite(Sending).test_settings_refuse_unknown_keys()
    with pytest.raises(AssertionError, match="access_key: let the name of a secret"):
        suite(NamedLikeNoSecret).test_settings_refuse_unknown_keys()


class Asking(Sending):
    """It has a setting without a default."""

    class Settings(Section):
        """Its table."""

        zone: str
        endpoint: str = ""
        token: SecretStr = SecretStr("")


ZONE = SettingQuestion(key="zone", text="Zone", required=True)


@pytest.mark.parametrize(
    ("questions", "fault"),
    [
        (Questions(settings=(ZONE,), credentials=(secret_setting("token", "Token"),)), ""),
        (Questions(settings=(ZONE,), credentials=(Credential(variable="CDN_TOKEN", text="", file="cdn_token"),)), ""),
        (Questions(), "no question about settings without a default: {'zone'}"),
        (Questions(settings=(ZONE,), endpoint_key="servers"), "what is no setting: {'servers'}"),
        (Questions(settings=(ZONE, SettingQuestion(key="plan", text="Plan"))), "what is no setting: {'plan'}"),
        (Questions(settings=(ZONE,), credentials=(secret_setting("key", "Key"),)), "what is no setting: {'key'}"),
        (
            Questions(settings=(ZONE,), credentials=(Credential(variable="CDN_TOKEN", text="", file="cdn-token"),)),
            "call its file cdn_token",
        ),
    ],
)
def test_init_prompts_for_what_is_read(questions: Questions, fault: str) -> None:
    """Else the configuration that it writes does not load, or a key is stored where nothing looks for it."""

    class Asked(Asking):
        pass

    Asked.questions = questions  # type: ignore[attr-defined]

    class Suite(TargetConformance):
        def make_unreachable_target(self) -> Any:
            return Asked("cdn", Asked.Settings(zone="1"))

    if not fault:
        Suite().test_what_init_asks_for_is_read()
        return
    with pytest.raises(AssertionError, match=fault):
        Suite().test_what_init_asks_for_is_read()


def test_systemd_loads_the_secret_of_a_setting_by_its_key() -> None:
    """A setting is read from the credential that is called as the setting; a variable from one of its own name."""
    token = secret_setting("token", "Token")
    assert "LoadCredential=targets.cdn.token:/etc/targets.cdn.token" in drop_in([token], Path("/etc"), "")
    assert Credential(variable="CDN_TOKEN", text="", file="cdn_token").systemd_name == "cdn_token"
