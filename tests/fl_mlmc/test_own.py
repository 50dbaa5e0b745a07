"""Parts of the user's own: what texts name them, where they are looked for, and what is said where they fail."""

import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from fl_mlmc import own, parse
from fl_mlmc.own import EVERY, Reference, absolute, files, find, load, references, running_app
from fl_mlmc.registry import build, parse_call
from fl_mlmc.run.config import ConfigError, RunConfig
from fl_mlmc.run.config.run_config import MAY_BE_OWN
from fl_mlmc.simulations.app.bundle import stage_app

LADDER = Path(__file__).parents[2] / "examples" / "own-compressor" / "ladder.py"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("ladder.py:Steps", ["ladder.py:Steps"]),
        ("my_study.ladders:Steps(length=3)", ["my_study.ladders:Steps"]),
        ("MLMC(../my study/ladder.py:Steps(length=3), 'fixed')", ["../my study/ladder.py:Steps"]),
        ("Induced(a.py:A, b.py:B(x=1))", ["a.py:A", "b.py:B"]),
        ("'/tmp/a (copy)/x.py':A(x=1)", ["'/tmp/a (copy)/x.py':A"]),
        (r"C:\study\x.py:A", [r"C:\study\x.py:A"]),
        ("MLMC(TopK(fraction=0.01))", []),
        ("net('a.py:B', \"c.d:E\")", []),
        ("trimmed-mean:0.2", []),
        ("hub/set:config", []),
        ("{'a': 1, 'b': True}", []),
    ],
)
def test_a_text_names_parts_of_ones_own(text: str, found: list[str]) -> None:
    assert [str(reference) for reference in references(text)] == found
    for said in found:  # their text is read back
        assert [str(reference) for reference in references(f"MLMC({said}(x=1))")] == [said]


def test_an_object_is_loaded_anew_when_its_file_or_a_neighbour_changes(here: Path) -> None:
    write(here / "helper.py", "size = 3\n")
    write(here / "part.py", "from helper import size\n\ndef make():\n    return size\n")
    assert load(Reference("part.py", "make"))() == 3
    assert load(Reference("part", "make")) is load(Reference("part.py", "make"))
    write(here / "helper.py", "size = 45\n")
    assert load(Reference("part.py", "make"))() == 45
    assert "helper" not in sys.modules


def test_two_studies_may_have_files_of_one_name(here: Path) -> None:
    for number in (1, 2):
        write(here / f"study{number}" / "helper.py", f"size = {number}\n")
        write(here / f"study{number}" / "model.py", "import helper\n\ndef make():\n    return helper.size\n")
    makes = [load(Reference(f"study{number}/model.py", "make")) for number in (1, 2)]
    assert [make() for make in makes] == [1, 2]


def test_a_package_is_imported_as_one(here: Path) -> None:
    write(here / "study" / "__init__.py", "")
    write(here / "study" / "layers.py", "size = 5\n")
    write(here / "study" / "deep" / "__init__.py", "")
    text = "from ..layers import size\nfrom study.layers import size as same\n\ndef make():\n    return size + same\n"
    write(here / "study" / "deep" / "model.py", text)
    assert load(Reference("study.deep.model", "make"))() == 10
    assert load(Reference("study/deep/model.py", "make"))() == 10
    assert {Path(home).name for home, _ in files(["study.deep.model:make"])} == {"__init__.py", "layers.py", "model.py"}


def test_files_are_named_like_libraries_without_harm(here: Path) -> None:
    write(here / "random.py", "def make():\n    return 1\n")
    write(here / "clients.py", "import random\nimport torch\n\ndef make():\n    return random.random, torch.zeros(1)\n")
    assert load(Reference("clients.py", "make"))()[1].shape == (1,)
    assert load(Reference("random.py", "make"))() == 1
    import random

    assert hasattr(random, "Random")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nowhere.py:A", "there is no file 'nowhere.py' in"),
        ("no.where:A", "there is no file 'no/where.py' or 'no/where/__init__.py' in"),
        ("x).py:A", "not of the form"),
        ("part.py:nothing", "part.py has no object 'nothing'; it defines fails, make"),
        ("part.py:make(weight=1)", "thing part.py:make has no option 'weight'; its options: size"),
        ("part.py:make", "part.py:make gives a int, expected a str"),
        ("part.py:number(1)", "part.py:number is a int and takes no options"),
        ("part.py:fails", r"^\S*part.py, line 8, in fails: KeyError: 'x' \(while thing part.py:fails was made\)"),
        ("broken.py:A", r"^\S*broken.py, line 2: SyntaxError: invalid syntax"),
        ("raises.py:A", r"^\S*raises.py, line 3: ZeroDivisionError: division by zero \(while it was imported\)"),
        ("leaves.py:A", r"^\S*leaves.py, line 1: SystemExit: 3 \(while it was imported\)"),
        ("json:loads", "'json' is an installed package"),
        ("torch.nn:Linear", "'torch.nn' is an installed package"),
    ],
)
def test_what_cannot_be_loaded_is_named_with_the_users_line_first(here: Path, text: str, message: str) -> None:
    lines = ["number = 3", "", "def make(size=1):", "    return size", "", "def fails():", "    here = {}"]
    write(here / "part.py", "\n".join([*lines, "    return here['x']", ""]))
    write(here / "broken.py", "x = 1\ny = = 2\n")
    write(here / "raises.py", "x = 0\n\ny = 1 / x\n")
    write(here / "leaves.py", "raise SystemExit(3)\n")
    with pytest.raises(ValueError, match=message):
        build(text, {}, "thing", str, EVERY)


def test_an_object_that_is_no_function_stands_for_itself(here: Path) -> None:
    write(here / "part.py", "number = 3\n")
    assert parse_call("part.py:number", {}, "thing", given=2, follow=EVERY)("given", 1) == 3


@pytest.mark.parametrize("part", ["'", "a.py", "a.py:", "a.", "'a.py'", "(a", "\\'", " ", "a:", ":a"])
def test_a_hostile_text_takes_no_time(part: str) -> None:
    start = time.perf_counter()
    references(part * (2000 // len(part)))
    references("a:" + part * 10**6)
    assert time.perf_counter() - start < 0.2


def test_a_text_from_elsewhere_loads_nothing(here: Path) -> None:
    write(here / "evil.py", "raise SystemExit('loaded')\n")
    with pytest.raises(ValueError, match=r"'evil.py:A': this text may name known ones only"):
        parse("MLMC(evil.py:A())")
    with pytest.raises(ValueError, match="may name known ones only"):
        parse("evil.py:A()", references("other.py:A()"))


def test_an_own_ladder_is_told_by_its_file(here: Path) -> None:
    shutil.copy(LADDER, here / "ladder.py")
    compressor = parse("MLMC(ladder.py:Stretches(length=3))", EVERY)
    text = repr(compressor)
    assert text == f"MLMC({here}/ladder.py:Stretches(length=3))"
    assert parse(text, EVERY) == compressor
    assert len(compressor.compress(torch.ones(10), np.random.default_rng(0)).levels) == 1


def test_paths_of_a_config_are_absolute_and_survive_odd_folders(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = here / "my (study), 2"
    folder.mkdir()
    shutil.copy(LADDER, folder / "ladder.py")
    monkeypatch.chdir(folder)
    text = absolute("MLMC(ladder.py:Stretches(length=3))")
    monkeypatch.chdir("/")
    assert text == f"MLMC('{folder}/ladder.py':Stretches(length=3))"
    assert parse(repr(parse(text, EVERY)), EVERY) == parse(text, EVERY)
    config = RunConfig(compressor=text)
    assert RunConfig.from_flower(config.to_flower()).own_texts() == {"compressor": text}


def test_a_package_of_another_environment_is_not_the_users_line(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(here / "dist-packages" / "heavy.py", "def fails():\n    raise KeyError('x')\n")
    monkeypatch.syspath_prepend(here / "dist-packages")
    write(here / "part.py", "import heavy\n\n\ndef make():\n    return heavy.fails()\n")
    with pytest.raises(ValueError, match=r"^\S*part.py, line 5, in make: KeyError: 'x'"):
        build("part.py:make", {}, "thing", follow=EVERY)


PATHS = """
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fl_mlmc.compression import Identity
from fl_mlmc.registry import PathText


@dataclass(frozen=True)
class Table(Identity):
    table: PathText = ""
    name: str = ""

    def __post_init__(self):
        assert Path(self.table).name == "t.npy"


def net(input_shape, num_classes, width=1.0, weights: PathText = "", kind: str = ""):
    ...
"""


def test_a_path_in_an_option_of_ones_own_part_is_absolute_too(here: Path) -> None:
    write(here / "own.py", PATHS)
    texts = {
        "compressor": "Induced(TopK(count=2), own.py:Table('t.npy', name='t.npy'))",
        "downlink-compressor": "own.py:Table(name='a', table='~/t.npy')",
        "model": "own.py:net(weights='w/b.npz', kind='w')",
    }
    absolute = RunConfig.from_flower(texts).rooted().to_flower()
    rooted = {key: str(absolute[key]).replace(",/", ", /") for key in texts}
    assert rooted["compressor"] == f"Induced(TopK(count=2), {here}/own.py:Table('{here}/t.npy', name='t.npy'))"
    assert rooted["downlink-compressor"] == f"{here}/own.py:Table(name='a', table='{Path.home()}/t.npy')"
    assert rooted["model"] == f"{here}/own.py:net(weights='{here}/w/b.npz', kind='w')"


@pytest.mark.parametrize("key", MAY_BE_OWN)
def test_every_key_names_what_is_missing(here: Path, key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} = 'gone.py:Mine': there is no file 'gone.py'"):
        RunConfig.from_flower({key: "gone.py:Mine"})
    write(here / "odd.py", "def Mine(*given):\n    return 7\n")
    if key not in (
        "dataset",
        "model",
        "problem",
        "server-optimizer",
        "client-optimizer",
        "learning-rate-schedule",  # 7 is a rate's factor
        "server-learning-rate-schedule",
    ):
        with pytest.raises(ConfigError, match=f"{key} = 'odd.py:Mine': .*gives a int, expected a"):
            RunConfig.from_flower({key: "odd.py:Mine"})


def test_an_app_holds_what_it_was_given_and_nothing_else_is_imported(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(here / "study" / "helper.py", "length = 3\n")
    text = LADDER.read_text().replace("from torch import", "from helper import length\nfrom torch import")
    ladder = write(here / "study" / "ladder.py", text)
    evil = write(here / "evil.py", "raise SystemExit('loaded')\n")
    config = RunConfig(compressor=f"MLMC({ladder}:Stretches(length=3))")
    digest = files(config.own_texts().values())
    app = stage_app(here / "app", config)
    shutil.rmtree(here / "study")
    monkeypatch.setattr(own, "folder", lambda room: app / room)
    assert running_app() is not None
    again = RunConfig.from_flower(config.to_flower())
    assert repr(again.compression.uplink) == config.compression.compressor
    assert [home for home, _ in files(again.own_texts().values())] == [home for home, _ in digest]
    assert absolute(config.compression.compressor) == config.compression.compressor
    for where in (str(evil), "evil.py", "../evil.py", "json", "evil"):
        with pytest.raises(ConfigError, match="parts of one's own come with the app and from nowhere else"):
            RunConfig.from_flower({"model": f"{where}:A"})


def test_an_app_that_flower_unpacked_is_all_that_is_looked_at(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = here / "apps" / "me.study.1.0.0.aabbccdd"
    write(app / "pyproject.toml", "")
    write(app / "part.py", "def make():\n    return 3\n")
    write(here / "evil.py", "raise SystemExit('loaded')\n")
    monkeypatch.syspath_prepend(str(app))
    assert load(Reference("part.py", "make"))() == load(Reference("part", "make"))() == 3
    (app / "link.py").symlink_to(here / "evil.py")
    for where in (str(here / "evil.py"), "evil.py", "link.py", "../../evil.py"):
        with pytest.raises(ValueError, match="come with the app"):
            find(where)


def test_a_file_that_flower_would_leave_out_is_refused(here: Path) -> None:
    shutil.copy(LADDER, here / "test_ladder.py")
    with pytest.raises(ConfigError, match="leaves out test_"):
        stage_app(here / "app", RunConfig(compressor="test_ladder.py:Stretches()"))
