"""What ``check`` finds out from the configuration and the targets, without asking anybody."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from listener.allowances import Day, for_each_kind
from listener.contracts import Check, CheckState, KindLimits
from listener.daemon.checks import run_checks
from listener.refresh import RefreshKind
from tests.pipeline.scripted import BASE, Scripted
from tests.pipeline.world import settings_for


@pytest.mark.parametrize(
    ("all_params", "lacking", "expected"),
    [
        (False, (), []),
        (False, (RefreshKind.IGNORE_PARAMS,), []),
        (True, (RefreshKind.IGNORE_PARAMS,), [(CheckState.FAILED, "any query")]),
        (False, (RefreshKind.DIRECTORY,), [(CheckState.WARNING, "single URLs only")]),
    ],
)
async def test_a_kind_that_a_site_needs_and_its_target_lacks_is_found(
    tmp_path: Path, all_params: bool, lacking: tuple[RefreshKind, ...], expected: list[tuple[CheckState, str]]
) -> None:
    """Otherwise it would be stale for ever."""
    edge: Any = SimpleNamespace(edge_url=BASE.rstrip("/"))
    settings = settings_for(tmp_path, edge, {}, {"all_params": all_params})
    target = Scripted()
    target.limits = {kind: KindLimits(10) for kind in RefreshKind if kind not in lacking}  # type: ignore[misc]
    checks = await run_checks(settings, {}, {"cdn": target})
    found = [one for one in checks if one.subject == "targets.cdn"]
    assert [one.state for one in found] == [state for state, _ in expected]
    for one, (_, words) in zip(found, expected, strict=True):
        assert words in one.message and one.hint


@pytest.mark.parametrize("fails", [False, True])
async def test_a_target_checks_the_base_urls_of_its_sites(tmp_path: Path, fails: bool) -> None:
    """Those of the sites that it refreshes, and only where it can work at all."""
    edge: Any = SimpleNamespace(edge_url=BASE.rstrip("/"))

    class Choosy(Scripted):
        """Takes no URL."""

        async def check(self) -> list[Check]:
            return [Check("cdn: key", CheckState.FAILED if fails else CheckState.OK, "tried")]

        async def check_urls(self, urls: Sequence[str]) -> list[Check]:
            return [Check(f"cdn: {url}", CheckState.FAILED, "not ours", "correct base_urls") for url in urls]

    checks = await run_checks(settings_for(tmp_path, edge, {}), {}, {"cdn": Choosy()})
    assert [one.subject for one in checks if one.message == "not ours"] == ([] if fails else [f"cdn: {BASE}"])


@pytest.mark.parametrize("limit", [10, 4])
async def test_targets_of_one_account_that_give_it_different_limits_are_found(tmp_path: Path, limit: int) -> None:
    """The lowest counts, so that nothing is spent that one of them forbids."""
    edge: Any = SimpleNamespace(edge_url=BASE.rstrip("/"))
    targets = {"cdn": Scripted(), "other": Scripted()}
    targets["other"].allowances = for_each_kind({RefreshKind.FILE: limit, RefreshKind.DIRECTORY: 2}, Day())
    checks = await run_checks(settings_for(tmp_path, edge, {}), {}, targets)
    found = [one.message for one in checks if one.subject == "account main"]
    assert found == (
        []
        if limit == 10
        else [
            "its targets disagree about the limit of file, so the lowest counts: targets.cdn 10, targets.other 4",
        ]
    )
