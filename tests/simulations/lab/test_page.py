"""The report page: one file, all figures, and no text from a log that the browser would run."""

import json
import re
import sys
from pathlib import Path

import pytest

from fl_mlmc.run.config import ConfigError
from fl_mlmc.simulations import lab
from fl_mlmc.simulations.lab.facts import Facts
from fl_mlmc.simulations.lab.page import write_page
from fl_mlmc.simulations.lab.sweep import compare_runs
from tests.simulations.lab.test_compare import run

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


def logged(folder: Path, **config: object) -> Path:
    """A run with two clients in each of two rounds: drawn levels, one drop, hostile texts, ε."""
    run(folder, [0.4, 0.6], 1000, **config)
    rows = [
        {"round": number, "client": client, "node": HOSTILE, "tier": f"phone{HOSTILE}", "width": 0.5,
         "num_parameters": 100, "payload_bytes": 50, "downlink_bytes": 400, "train_loss": 1.0 / number,
         "level": [1, 2] if client else 1, "probability": [0.5, 0.25] if client else 0.5, "held_out_accuracy": 0.5,
         "status": "ok" if client or number == 1 else f"dropped: {HOSTILE}"}
        for number in (1, 2) for client in (0, 1)
    ]  # fmt: skip
    (folder / "clients.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rounds = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    for row in rounds:
        row |= {"coverage_by_tensor": {HOSTILE: [1, 2.0]}, "epsilon": 1.5 * row["round"]}
    (folder / "rounds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rounds))
    return folder


def test_a_page_holds_everything_and_runs_nothing_of_a_logs(tmp_path: Path) -> None:
    runs = [
        logged(tmp_path / f"{label}{seed}", compressor=label, seed=seed, model=HOSTILE)
        for label in ("Identity()", "Natural()")
        for seed in (0, 1)
    ]
    page = write_page(compare_runs(runs), tmp_path / "out" / "report.html", f"few {HOSTILE}").read_text()
    assert "<img src=x" not in page
    assert "<script>alert" not in page
    assert page.count("Content-Security-Policy") == 1
    assert not re.search(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=", page), "nothing is loaded"
    for part in (
        "accuracy at equal cost, mean ± deviation over 2 seeds", "cost until accuracy", "By tier",
        "phone&lt;/script&gt;", "Dropped replies: 4 of 16",
        'id="curves"', 'id="clients"', 'id="levels"', 'id="coverage"', "ε", "3.000",
        "What differs", "Settings of all runs", "Versions",
    ):  # fmt: skip
        assert part in page, part


def test_facts_are_sums_of_the_log(tmp_path: Path) -> None:
    facts = Facts(compare_runs([logged(tmp_path / "one", compressor="Natural()", seed=0)]))
    assert [row[1:] for row in facts.tiers().rows] == [
        [f"phone{HOSTILE} (0.5)", "4", "200 bytes", "50 bytes", "1.6 kB", "0.5000", "1", "0.5000"]
    ]
    clients = facts.client_figures().set_index("client")
    assert clients["rounds"].tolist() == [1, 2]
    assert clients["uplink"].tolist() == [100, 100]
    assert clients["dropped"].tolist() == [1, 0]
    levels = facts.levels()
    assert levels["level"].tolist() == [1, 2]
    assert levels["share"].sum() == pytest.approx(1)
    assert levels["probability"].tolist() == [0.5, 0.25]
    assert facts.drops().rows == [["1", "one", HOSTILE]]


def test_without_plotly_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    monkeypatch.delitem(sys.modules, "fl_mlmc.simulations.lab.figures", raising=False)
    monkeypatch.delattr(lab, "figures", raising=False)
    for name in [name for name in sys.modules if name.startswith("plotly.")]:
        monkeypatch.delitem(sys.modules, name)
    one = compare_runs([run(tmp_path / "one", [0.1], 10, seed=0)])
    with pytest.raises(ConfigError, match=r"pip install 'fl-mlmc\[report\]'"):
        write_page(one, tmp_path / "a.html", "a")
