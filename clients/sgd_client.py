"""One client's round: take the submodel, train it, send back the compressed update."""

import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from fl_mlmc.compressors.base import Compressed, Compressor
from fl_mlmc.config import RunConfig
from fl_mlmc.models import Model, build_model
from fl_mlmc.models.base import load_vector, to_vector
from fl_mlmc.objectives import local_loss, masked_cross_entropy, present_classes
from fl_mlmc.protocol import TrainTask, TrainUpdate, code_stamp
from fl_mlmc.rng import stream
from fl_mlmc.schemes import Round, Turn
from fl_mlmc.submodels import plan
from fl_mlmc.wire import decode_payload, encode_payload

from .budget import check_budget, fitting
from .data import ClientData
from .state import ClientMemory
from .trainer import TrainingError, device_of, one_thread, train


@dataclass(frozen=True)
class ClientReply:
    """An update and its payload."""

    update: TrainUpdate
    payload: bytes
    size: int
    """Coordinates of the submodel, and so of the payload."""


def run_task(task: TrainTask, payload: bytes, config: RunConfig, data: ClientData) -> ClientReply:
    """Train what `payload` holds on the client's own examples, and encode update = after − before.

    TrainingError if training gives no finite update; WireError if the payload is broken.
    """
    with one_thread():
        model = build_model(config.model, data.spec.input_shape, data.spec.num_classes)
        own = plan(model.spec, config.width_rule, task.width, task.server_round, task.client, config.seed)
        before = decode_payload(payload, own.size).dense()
        device = device_of(config)
        module = _module(model, tuple(own.units.items()), device)
        load_vector(module, before)
        features, labels = (torch.from_numpy(part).to(device) for part in data.client(task.client))
        rng = stream(config.seed, "batches", task.server_round, task.client)
        present = present_classes(labels, data.spec.num_classes)
        loss_of = local_loss(
            model,
            module,
            config.width_rule,
            task.width,
            task.server_round,
            stream(config.seed, "widths", task.server_round, task.client),
            [tier.width for tier in config.tier_list],
            masked_cross_entropy(present) if config.masked_cross_entropy else nn.functional.cross_entropy,
            config.distill,
        )
        trained = train(module, features, labels, config, rng, loss_of)
        start = time.perf_counter()
        update = _checked(to_vector(module) - before.to(device))
        uplink = fitting(config.uplink, own.size, task.uplink_budget) if task.uplink_budget else config.uplink
        compressed = _encode(update, task, config, model.spec.size, uplink)
        encoded = encode_payload(compressed.payload)
        if task.uplink_budget:
            check_budget(encoded, uplink, task.uplink_budget)
    return ClientReply(
        TrainUpdate(
            server_round=task.server_round,
            client=task.client,
            code_stamp=code_stamp(),
            num_examples=len(labels),
            num_steps=trained.num_steps,
            train_loss=trained.loss,
            train_seconds=trained.seconds,
            encode_seconds=time.perf_counter() - start,
            expected_bits=compressed.expected_bits,
            levels=list(compressed.levels),
            probabilities=list(compressed.probabilities),
            labels=present.nonzero().flatten().tolist() if config.average_by_label else [],
            compressor="" if uplink is config.uplink else repr(uplink),
        ),
        encoded,
        own.size,
    )


def _encode(update: Tensor, task: TrainTask, config: RunConfig, size: int, uplink: Compressor) -> Compressed:
    """The scheme's message; what it remembers is on disk before the message is sent."""
    scheme = config.resolved_scheme(size)
    round = Round(config.seed, task.server_round, config.num_clients, config.clients_per_round)
    rng = stream(config.seed, "level", task.server_round, task.client)
    turn = Turn(round, task.client, uplink, rng)
    if not scheme.has_memory:
        return scheme.encode(lambda _: update, (update,), {}, turn)[0][0]
    if uplink is not config.uplink:
        raise TrainingError(
            f"the uplink-budget of {task.uplink_budget} bytes asks for {uplink!r}, and scheme {scheme.name} has its "
            f"steps from {config.compressor}: raise the budget, or run scheme 'direct'"
        )
    kept = ClientMemory(Path(task.state), task.client)
    memory = kept.load(task.memory_round, update) if task.memory_round else scheme.init_client(update)
    (message,), memory = scheme.encode(lambda _: update, (update,), memory, turn)
    kept.save(task.server_round, memory, keep=task.memory_round)
    return message


@lru_cache(maxsize=8)
def _module(model: Model, units: tuple[tuple[str, int], ...], device: torch.device) -> nn.Module:
    # One a process and tier: building draws initial weights that the broadcast then replaces.
    return model.build(dict(units)).to(device)


def _checked(update: Tensor) -> Tensor:
    if not bool(torch.isfinite(update).all()):
        raise TrainingError("the update holds values that are not finite")
    return update
