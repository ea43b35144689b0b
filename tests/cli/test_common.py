"""What commands share."""

from __future__ import annotations

import gc

import pytest

from listener.cli.common import importing


@pytest.mark.parametrize("error", [None, ImportError("no such module")])
def test_what_was_imported_is_no_work_for_the_garbage_collector(error: ImportError | None) -> None:
    """It is off meanwhile and on afterwards, also where an import failed, and does not look at what there was."""
    before = gc.get_freeze_count()
    try:
        with importing():
            assert not gc.isenabled()
            kept = [[] for _ in range(1_000)]
            if error is not None:
                raise error
    except ImportError as raised:
        assert raised is error
    try:
        assert gc.isenabled()
        assert gc.get_freeze_count() >= before + len(kept)
    finally:
        gc.unfreeze()
