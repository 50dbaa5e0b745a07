"""One client's round of a bilevel run: take its part of x, y and v, step them, send back the compressed change."""

import time
from collections.abc import Mapping

import torch

from fl_mlmc.bilevel import Held
from fl_mlmc.bilevel.run import problem_of, scheme_of, split_state
from fl_mlmc.bilevel.tasks import Rows
from fl_mlmc.config import RunConfig
from fl_mlmc.protocol import TrainTask, TrainUpdate, code_stamp
from fl_mlmc.rng import stream
from fl_mlmc.wire import encode_payload

from .budget import check_budget, fitting
from .data import ClientData
from .sgd_client import ClientReply, received
from .trainer import TrainingError, device_of, threads


def run_bilevel_task(task: TrainTask, arrays: Mapping[str, bytes], config: RunConfig, data: ClientData) -> ClientReply:
    """Step what `arrays` hold on the client's own examples, of which the outer loss has some for itself.

    TrainingError if that gives no finite update; WireError if the payload is broken.
    """
    with threads(config.threads_of(task.tier)):
        start = time.perf_counter()
        problem = problem_of(config, data.spec.input_shape, data.spec.num_classes)
        held = Held.of(problem, config.width_rule, task.width, task.server_round, task.client, config.seed)
        device = device_of(config)
        (before,), _ = received(arrays, held.num_values, device)
        point = split_state(held, before)
        features, labels = (torch.from_numpy(part).to(device) for part in data.client(task.client))
        rng = stream(config.seed, "outer-rows", task.client)  # the same in every round
        rows = Rows.split(features, labels, rng, config.outer_share, config.batch_size)
        scheme = scheme_of(config, len(labels))
        reply = scheme.client(held, point, rows, stream(config.seed, "batches", task.server_round, task.client))
        update = torch.cat(tuple(reply.update))
        if not bool(update.isfinite().all() and reply.loss.isfinite()):
            raise TrainingError(
                f"the bilevel steps diverge: the curvature along v was {float(reply.curvature):.3g}. Take shorter "
                "steps: those of y and v lie below 2 / curvature, that of x well below them"
            )
        encode_start = time.perf_counter()
        rng = stream(config.seed, "level", task.server_round, task.client)
        uplink = fitting(config.uplink, held.num_values, task.uplink_budget) if task.uplink_budget else config.uplink
        compressed = uplink.compress(update, rng)
        encoded = encode_payload(compressed.payload)
        if task.uplink_budget:
            check_budget([encoded], uplink, task.uplink_budget)
        end = time.perf_counter()
    curvature = float(reply.curvature.nan_to_num(torch.inf))
    return ClientReply(
        TrainUpdate(
            server_round=task.server_round,
            client=task.client,
            code_stamp=code_stamp(),
            num_examples=len(labels),
            num_steps=reply.num_steps,
            train_loss=float(reply.loss),
            train_seconds=encode_start - start,
            encode_seconds=end - encode_start,
            expected_bits=compressed.expected_bits,
            levels=list(compressed.levels),
            probabilities=list(compressed.probabilities),
            labels=[],
            compressor="" if uplink is config.uplink else repr(uplink),
            curvature=curvature,
        ),
        (encoded,),
        held.num_values,
    )
