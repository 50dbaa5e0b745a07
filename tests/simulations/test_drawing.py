import os
import subprocess
import sys


def test_a_backend_that_is_not_installed_does_not_stop_a_command() -> None:
    env = {**os.environ, "MPLBACKEND": "module://a_notebook_that_is_not_here.backend_inline"}
    code = "import os, fl_mlmc.simulations.drawing; print(os.environ['MPLBACKEND'])"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == env["MPLBACKEND"], "what the user set stays set"
