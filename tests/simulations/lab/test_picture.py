"""Pictures for papers: formats, sizes, and labels that people can read."""

import json
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from fl_mlmc.run.config import ConfigError
from fl_mlmc.simulations.lab import picture
from fl_mlmc.simulations.lab.sweep import compare_runs
from tests.simulations.lab.test_compare import run


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are drawn."""
    figures: list[Figure] = []

    def make(*args: object, **options: object) -> Figure:
        figures.append(Figure(*args, **options))  # type: ignore[arg-type]
        return figures[-1]

    monkeypatch.setattr(picture, "Figure", make)
    return figures


def wide(folder: Path, tensors: int) -> Path:
    """A run whose model has many tensors."""
    run(folder, [0.2, 0.5, 0.7], 1000, compressor="Identity()", seed=0)
    rows = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    for row in rows:
        row["coverage_by_tensor"] = {f"layer.{number}.weight": [1, 2.0] for number in range(tensors)}
    (folder / "rounds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_text_is_readable_and_within_the_page(tmp_path: Path, kept: list[Figure]) -> None:
    runs = [
        run(tmp_path / f"{label}{seed}", [0.1, 0.5 + seed / 10, 0.9], 100, compressor=label, seed=seed)
        for label in ("Identity()", "MLMC(TopK(fraction=0.05))", "QSGD(levels=4)")
        for seed in (0, 1)
    ]
    for comparison, endings in (
        (compare_runs(runs), [".png"]),
        (compare_runs([wide(tmp_path / "wide", 161)]), [".pdf", ".svg"]),
    ):
        for ending in endings:
            assert picture.draw(comparison, tmp_path / f"a{ending}").stat().st_size > 5000
        figure = kept[-1]
        shown = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
        assert min(text.get_fontsize() for text in shown) >= 8
        assert figure.get_figwidth() <= 7.2
        assert figure.get_figheight() < 7, "a coverage map does not grow with the model"
        page = figure.bbox
        for legend in figure.legends:
            box = legend.get_window_extent()
            assert page.x0 <= box.x0
            assert box.x1 <= page.x1
    names = [text.get_text() for text in kept[0].legends[0].get_texts()]
    assert names == ["Identity()", "MLMC(TopK(fraction=0.05))", "QSGD(levels=4)"]


def test_another_ending_is_refused(tmp_path: Path) -> None:
    one = compare_runs([run(tmp_path / "one", [0.1], 10, seed=0)])
    with pytest.raises(ConfigError, match="ends in"):
        picture.draw(one, tmp_path / "a.bmp")
