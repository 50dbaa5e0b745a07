"""One import name: the rooms are found within the package or beside it, whatever lies in a user's own folder."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from fl_mlmc.rooms import LIBRARY, ROOMS, files, folder
from fl_mlmc.run.protocol import code_stamp
from fl_mlmc.simulations.app.bundle import CLIENT_APP, SERVER_APP, stage_app

ROOT = Path(__file__).parents[1]


def told(code: str, cwd: Path, path: Path, *words: str) -> str:
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(
        command, cwd=cwd, env={"PYTHONPATH": str(path)}, capture_output=True, text=True, check=True
    ).stdout


def test_a_users_own_names_shadow_nothing(tmp_path: Path) -> None:
    for name in ("clients.py", "deploy.py", "strategies/__init__.py", "simulations/__init__.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("raise ImportError('this is the user\\'s own')")
    code = "import fl_mlmc.simulations.cli, fl_mlmc.clients.client_app as app, fl_mlmc.deploy.cli; print(app.__file__)"
    assert Path(told(code, tmp_path, ROOT).strip()) == ROOT / "clients" / "client_app.py"


def test_rooms_within_are_the_code_that_lies_beside(tmp_path: Path) -> None:
    app = stage_app(tmp_path / "app")
    code = "import fl_mlmc.clients; from fl_mlmc.run.protocol import code_stamp; print(fl_mlmc.__path__, code_stamp())"
    assert told(code, tmp_path, app).split() == [f"['{app / LIBRARY}']", code_stamp()]


def test_starting_a_node_does_not_load_torch() -> None:
    assert told("import sys, fl_mlmc.deploy.cli; print('torch' in sys.modules)", ROOT, ROOT) == "False\n"


@pytest.mark.parametrize(("room", "names"), [("clients", ["compressed", "submodel"]), ("strategies", ["Decoding"])])
def test_a_room_loads_what_is_asked_of_it_and_no_more(room: str, names: list[str]) -> None:
    code = f"import sys, fl_mlmc.{room} as room; print([name in sys.modules for name in ('torch', 'flwr')])"
    assert told(code, ROOT, ROOT) == "[False, False]\n"
    code = f"import fl_mlmc.{room} as room; print([getattr(room, name).__name__ for name in room.__all__])"
    assert told(code, ROOT, ROOT) == f"{names}\n"


def test_the_library_holds_no_file_of_a_room() -> None:
    names = [name for name, _ in files(LIBRARY)]
    assert "fl_mlmc/rooms.py" in names
    assert len(names) == len(set(names)) == len(list(folder(LIBRARY).rglob("*.py")))
    assert not any(name.split("/")[1] in ROOMS for name in names)


@pytest.mark.parametrize(
    "name", ["clients/client_app.py", "simulations/app/server_app.py", "fl_mlmc/compression/blocks.py"]
)
def test_a_file_is_named_by_its_room(name: str) -> None:
    assert dict(files(name.split("/")[0]))[name] == ROOT / name


def test_both_apps_are_found_in_two_threads_at_once() -> None:
    """As Flower looks them up: before, one of them met a package that was not whole yet, and had no room."""
    code = """
import importlib.util, sys, threading
sys.setswitchinterval(1e-6)
missing = []
def find(name):
    try:
        importlib.util.find_spec(name)
        importlib.import_module(name) if name.endswith("client_app") else None
    except ModuleNotFoundError as error:
        missing.append(error)
threads = [threading.Thread(target=find, args=(f"fl_mlmc.{kind}_app",)) for kind in ("client", "server")]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(missing)
"""
    assert told(code, ROOT, ROOT) == "[]\n"


def test_an_app_in_which_a_room_is_missing_still_tells_where_an_error_comes_from(tmp_path: Path) -> None:
    stage_app(tmp_path / "app")
    assert not (tmp_path / "app/deploy").exists()
    assert not (tmp_path / "app/fl_mlmc/deploy").exists()
    (tmp_path / "mine.py").write_text("def net():\n    raise KeyError('hidden')\n")
    code = (
        "import sys; sys.path.append(sys.argv[1]); from fl_mlmc.own import blamed; import mine\n"
        "try:\n    mine.net()\nexcept KeyError as error:\n    print(blamed(error))\n"
    )
    assert told(code, tmp_path / "app", tmp_path / "app", str(tmp_path)).endswith(
        "mine.py, line 2, in net: KeyError: 'hidden'\n"
    )


def test_flower_is_told_of_the_apps_in_the_package() -> None:
    components = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["components"]
    assert components == {"serverapp": SERVER_APP, "clientapp": CLIENT_APP}
