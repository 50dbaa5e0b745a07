"""A study: what its file says, how its runs are called, and that they are found again."""

from pathlib import Path

import pytest

from fl_mlmc.run.config import ConfigError
from fl_mlmc.simulations.lab.study import Study, is_study, label_of

SCENARIO = 'num-clients = 6\nclients-per-round = 4\nmodel = "mlp(hidden=(4,))"\n'


def written(folder: Path, text: str) -> Path:
    (folder / "one.toml").write_text(SCENARIO)
    path = folder / "study.toml"
    path.write_text(f'scenario = "one.toml"\nruns-dir = "{folder / "runs"}"\n{text}')
    return path


def test_a_grid_has_every_combination_and_methods_are_points_without_their_seed(tmp_path: Path) -> None:
    path = written(tmp_path, '[set]\nnum-rounds = 3\n[grid]\nseed = [0, 1]\ncompressor = ["Natural()", "Identity()"]\n')
    study = Study.read(path)
    assert [(trial.label, trial.seed) for trial in study.trials] == [
        ("Natural()", 0), ("Natural()", 1), ("Identity()", 0), ("Identity()", 1)
    ]  # fmt: skip
    assert {trial.config.num_rounds for trial in study.trials} == {3}
    assert {trial.config.cohort.num_clients for trial in study.trials} == {6}
    assert len(set(study.labels)) == 4
    assert [trial.directory for trial in Study.read(path).trials] == [trial.directory for trial in study.trials]
    assert is_study(path)
    assert not is_study(tmp_path / "one.toml")


def test_a_run_of_other_keys_has_another_folder(tmp_path: Path) -> None:
    text = "[set]\nnum-rounds = {rounds}\n[grid]\nseed = [0]\n"
    folders = {Study.read(written(tmp_path, text.format(rounds=rounds))).trials[0].directory for rounds in (3, 4)}
    assert len(folders) == 2


def test_a_zip_goes_hand_in_hand_and_its_label_stands_for_it(tmp_path: Path) -> None:
    text = '[zip]\nlabel = ["slow", "fast"]\nlearning-rate = [0.1, 0.2]\nlocal-steps = [8, 4]\n[grid]\nseed = [0, 1]\n'
    study = Study.read(written(tmp_path, text + 'compressor = ["Natural()", "Identity()"]\n'))
    found = [
        (trial.label, trial.config.training.learning_rate, trial.config.training.local_steps) for trial in study.trials
    ]
    assert found[::2] == [
        ("slow, compressor=Natural()", 0.1, 8), ("slow, compressor=Identity()", 0.1, 8),
        ("fast, compressor=Natural()", 0.2, 4), ("fast, compressor=Identity()", 0.2, 4),
    ]  # fmt: skip
    points = [{"learning-rate": 0.1, "seed": 0}, {"learning-rate": 0.1, "seed": 1}]
    assert label_of(points[0], points) == "run"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[grid]\nseed = 3\n", "seed in [grid] is a list"),
        ("[grid]\nseed = [1, 1]\n", "has a value twice"),
        ("[zip]\nseed = [1, 2]\nlocal-steps = [1]\n", "have one length, got seed 2, local-steps 1"),
        ("[grid]\nseed = [1]\n[zip]\nseed = [1]\n", "seed is in [grid] and in [zip]"),
        ('[grid]\ncompressor = ["Nothing()"]\n', "Nothing"),
        ("[grid]\nlearnin-rate = [0.1]\n", "learning-rate"),
        ('baseline = "None"\n[grid]\nseed = [1]\n', "baseline 'None'"),
        ("grids = 3\n", "has 'grids', expected scenario"),
        ('target = "high"\n[grid]\nseed = [1]\n', "is a number"),
        ("[zip]\nlocal-steps = [1, 1]\nlabel = ['a', 'b']\n", "are the same run"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_starts(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Study.read(written(tmp_path, text))
    assert said in str(refused.value)
