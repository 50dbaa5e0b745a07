"""`deploy server DIR` with stand-ins for Flower's parts, few descriptors and short patience.

python server.py DIR DESCRIPTORS SECONDS
"""

import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fl_mlmc.deploy import registrar, serve


def main(directory: Path, descriptors: int, seconds: float) -> None:
    nodes: dict[str, str] = {}

    def flwr(directory: Path, arguments: Sequence[str], tell: object = None) -> dict[str, Any]:
        """`flwr supernode …`, which needs descriptors as starting a process does; what it was told is in asked.txt."""
        with (directory / "asked.txt").open("a") as file:
            file.write(" ".join(arguments[:2]) + f" {arguments[-1]}\n")
        if arguments[1] == "register":
            nodes[str(len(nodes) + 1)] = "online"
            return {"node-id": str(len(nodes))}
        if arguments[1] == "unregister":
            nodes.pop(arguments[2], None)
        return {"nodes": [{"node-id": node, "status": status} for node, status in nodes.items()]}

    def superlink(directory: Path, host: str, port: int) -> list[str]:
        script = str(Path(__file__).parent / "superlink.py")
        return [sys.executable, script, str(port), str(directory / "server.crt"), str(directory / "server.key")]

    registrar.flwr = flwr  # type: ignore[assignment]
    serve.superlink_command = superlink
    serve.REGISTER_SECONDS = 0.2
    if seconds and hasattr(serve, "limits_of"):
        patient = serve.limits_of
        serve.limits_of = lambda federation: patient(federation).hurried(seconds)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
    serve.serve(directory, lambda line: print(line, file=sys.stderr, flush=True))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
