"""Where a round's time goes: client training, encoding, transport, decoding with aggregation.

    python benchmarks/rounds.py [SCENARIO.toml] [--set KEY=VALUE …]

Runs the scenario once and reads its round log. Clients run side by side on `workers` processors, so their seconds
are divided by that number; transport is what is left of the round: Flower, Ray, waiting, the log.
"""

import argparse

from fl_mlmc.simulations.app.launch import execute, load_config
from fl_mlmc.simulations.cli import parse_setting
from fl_mlmc.simulations.engines.processors import processors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario", nargs="?", default="simulations/scenarios/quickstart.toml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    config = load_config(arguments.scenario, dict(map(parse_setting, arguments.set)))
    result = execute(config)
    workers = 1 if config.engine.name == "local" else min(processors(), config.cohort.clients_per_round)
    clients, rounds = result.clients, result.rounds.iloc[1:]  # the first round starts the engine
    per_round = clients[clients["round"] > 1].groupby("round")[["train_seconds", "encode_seconds"]].sum().mean()
    total, server = rounds["seconds"].mean(), rounds["aggregate_seconds"].mean()
    train, encode = per_round["train_seconds"] / workers, per_round["encode_seconds"] / workers
    parts = {
        "client training": train,
        "encoding": encode,
        "transport": total - train - encode - server,
        "decoding and aggregation": server,
        "round": total,
    }
    engine, cohort = config.engine.name, config.cohort.clients_per_round
    print(f"{engine} engine, {workers} workers, {len(rounds)} rounds of {cohort} clients")
    for name, seconds in parts.items():
        print(f"{name:26s} {seconds * 1e3:9.2f} ms  {seconds / total:7.2%}")


if __name__ == "__main__":
    main()
