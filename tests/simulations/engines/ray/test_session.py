from pathlib import Path

import pytest

from fl_mlmc.simulations.engines.ray import session


def test_sockets_lie_in_a_short_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/tmp/short")
    assert session._short() == "/tmp/short"
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / ("x" * 60)))
    assert session._short() == "/tmp"
    monkeypatch.setattr(session.os, "access", lambda *_: False)
    with pytest.raises(ValueError, match=r"need a short folder.*Set RAY_TMPDIR"):
        session._short()
