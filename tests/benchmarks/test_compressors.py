"""The table of a device is one command, which says so where there is no device."""

import sys

import pytest
import torch

from benchmarks import compressors


def test_the_table_of_a_device_has_a_row_for_each_compressor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compressors, "ON_A_DEVICE", ["RandK(fraction=0.01)", "Dither(unit=2.0)"])
    head, _, names, _, *rows = compressors.on_device(torch.device("cpu"), 2000, 1)
    assert head.startswith("d = 2,000 on the processor")
    assert [row.split("|")[1].strip() for row in rows] == ["`RandK(fraction=0.01)`", "`Dither(unit=2.0)`"]
    assert all(row.count("|") == names.count("|") for row in rows)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["compressors.py", "--device", "cuda"])
    with pytest.raises(SystemExit):
        compressors.main()
    assert "torch sees no GPU here" in capsys.readouterr().err
