"""What must fit across sections of the run config. Within one section, the section checks it."""

from ...aggregation import Setting
from ...aggregation.fednova import check_fednova
from ...bilevel.method import METHODS, is_bilevel
from ...data.partitions import parse_partition
from ...schemes import Scheme
from ..rhythm import Buffered
from .aggregation import AggregationConfig
from .cohort import CohortConfig
from .compression import CompressionConfig
from .data import DataConfig
from .engine import EngineConfig
from .output import OutputConfig
from .privacy import PrivacyConfig
from .section import Scalar
from .time import TimeConfig
from .training import TrainingConfig

NOT_VECTORIZED = ("ordered-dropout", "depth")
"""Width rules whose clients change their width within a round."""


def check_fits(
    cohort: CohortConfig,
    training: TrainingConfig,
    compression: CompressionConfig,
    aggregation: AggregationConfig,
    privacy: PrivacyConfig,
    engine: EngineConfig,
    data: DataConfig,
    time: TimeConfig,
) -> None:
    """ValueError, with the keys and the reason, if sections do not go together."""
    scheme = compression.message_scheme
    if training.is_bilevel != is_bilevel(compression.scheme):
        raise ValueError(
            f"task 'bilevel' goes with scheme {', '.join(map(repr, METHODS))}, and these with it; got task "
            f"{training.task!r} and scheme {compression.scheme!r}"
        )
    if training.is_bilevel:
        _fits_bilevel(cohort, training, aggregation, data)
    else:
        _fits_objective(training, aggregation, data)
    if engine.vectorize:
        _fits_vectorized(cohort, training, scheme, engine)
    _fits_scheme(scheme, cohort, training, aggregation)
    _fits_time(scheme, cohort, time)
    _fits_sampling(scheme, cohort, training, aggregation)
    if isinstance(rhythm := time.parsed_pace, Buffered):
        _fits_buffered(rhythm, scheme, cohort, training, compression, aggregation, privacy, engine)
    _fits_broadcast(scheme, compression)
    _fits_local_objective(scheme, training)
    _fits_aggregation(cohort, training, compression, aggregation, privacy)


def check_metrics(training: TrainingConfig, output: OutputConfig) -> None:
    """ValueError if a run is to stop, or to keep its best model, by what it does not measure."""
    known = ("loss", "accuracy") if training.is_bilevel else training.metric_names
    wanted = {"early-stop": output.stop_rule.metric if output.stop_rule else "", "keep-best": output.keep_best}
    for key, metric in wanted.items():
        if metric and metric not in known:
            raise ValueError(f"{key} looks at {metric!r}, and this run measures {', '.join(known)}: see metrics")


def _fits_aggregation(
    cohort: CohortConfig,
    training: TrainingConfig,
    compression: CompressionConfig,
    aggregation: AggregationConfig,
    privacy: PrivacyConfig,
) -> None:
    """What updates may be where they are not trusted, or must not tell on their clients: each aggregation says."""
    setting = Setting(
        compression.uplink,
        aggregation.rule,
        compression.scheme,
        is_bilevel=training.is_bilevel,
        averages_by_label=aggregation.average_by_label,
        draws_uniformly=not (cohort.over_sampling or cohort.least_coverage) and cohort.parsed_sampling.is_uniform,
        keeps_holders=cohort.width_rule == "nested" and cohort.is_steady,
        weighting=aggregation.weighting,
    )
    aggregation.parsed_rule.check(setting)
    if aggregation.weighting == "fednova":
        check_fednova(setting, training)
    if private := privacy.of(cohort):
        private.check(setting)


def _fits_vectorized(cohort: CohortConfig, training: TrainingConfig, scheme: Scheme, engine: EngineConfig) -> None:
    """Only the plain local training of many clients at once has a vectorised form."""
    obstacles = {
        f"engine {engine.name!r}; it takes 'ray'": engine.name != "ray",
        "task 'bilevel'": training.is_bilevel,
        f"scheme {scheme.name!r}, whose clients do not train": scheme.moves_itself,
        f"width-rule {cohort.width_rule!r}": cohort.width_rule in NOT_VECTORIZED,
    }
    if reasons := [reason for reason, holds in obstacles.items() if holds]:
        raise ValueError(f"vectorize = true does not go with {reasons[0]}")


def _fits_scheme(
    scheme: Scheme, cohort: CohortConfig, training: TrainingConfig, aggregation: AggregationConfig
) -> None:
    scheme.check_cohort(cohort.clients_per_round, cohort.num_clients)
    limited = [tier for tier in cohort.tier_list if tier.uplink_budget]
    if limited and not scheme.takes_any_compressor:
        raise ValueError(
            f"tier {limited[0].name!r} has bytes={limited[0].uplink_budget}, which its clients keep by a compressor of "
            f"their own, and scheme {scheme.name} has its steps from the run's: take scheme 'direct', or no bytes"
        )
    if scheme.moves_itself or scheme.takes_minibatches:
        _fits_own_steps(scheme, training, aggregation)
    if not scheme.has_memory:
        return
    if not cohort.is_steady:
        is_redrawn = cohort.tier_assignment == "redrawn"
        key, value = ("tier-assignment", "redrawn") if is_redrawn else ("width-rule", cohort.width_rule)
        raise ValueError(
            f"scheme {scheme.name} keeps client memory, a number for each coordinate that the client holds, and "
            f"with {key} = {value!r} these change from round to round: take coordinates that stay"
        )
    if aggregation.average_by_label:
        raise ValueError(
            f"scheme {scheme.name} keeps client memory of all its coordinates, and average-by-label leaves some of "
            "what it sends out of the mean: client and server would no longer remember the same"
        )


def _fits_own_steps(scheme: Scheme, training: TrainingConfig, aggregation: AggregationConfig) -> None:
    """What would step beside a scheme that takes gradients is refused."""
    wanted: dict[str, tuple[Scalar, Scalar]] = {
        "client-optimizer": (training.client_optimizer, "sgd"),
        "local-steps": (training.local_steps, 0),
        "learning-rate-drops": (training.learning_rate_drops, ""),
        "learning-rate-schedule": (training.learning_rate_schedule, "constant"),
    }
    if scheme.moves_itself:
        wanted |= {
            "server-optimizer": (aggregation.server_optimizer, "sgd"),
            "server-learning-rate": (aggregation.server_learning_rate, 1.0),
            "server-learning-rate-schedule": (aggregation.server_learning_rate_schedule, "constant"),
        }
    for key, (value, needed) in wanted.items():
        if value != needed:
            raise ValueError(
                f"scheme {scheme.name} takes gradients and says itself how many and how to step along them: "
                f"{key} stays {needed!r}, got {value!r}"
            )


def _fits_time(scheme: Scheme, cohort: CohortConfig, time: TimeConfig) -> None:
    if scheme.allows_partial:
        return
    for key, value in {
        "availability": "" if time.is_always else time.availability,
        "over-sampling": cohort.over_sampling,
    }.items():
        if value:
            raise ValueError(
                f"scheme {scheme.name} needs every client in every round, and with {key} = {value!r} some are missing: "
                "take a scheme for any cohort, such as diana, ef21 or scaffold"
            )


def _fits_buffered(
    rhythm: Buffered,
    scheme: Scheme,
    cohort: CohortConfig,
    training: TrainingConfig,
    compression: CompressionConfig,
    aggregation: AggregationConfig,
    privacy: PrivacyConfig,
    engine: EngineConfig,
) -> None:
    """What counts on a cohort that replies to one model has no meaning where updates come from many."""
    obstacles = {
        "task 'bilevel', whose steps are those of a round": training.is_bilevel,
        f"scheme {scheme.name}: its memories follow the mean of a cohort at one model": scheme.has_memory,
        f"scheme {scheme.name}, which shares out the work of a round": scheme.sets_workloads,
        f"scheme {scheme.name}, whose clients take gradients for a step of a round": scheme.moves_itself,
        f"aggregation {aggregation.rule!r}: an older update counts less, a median has no such": (
            aggregation.rule != "mean"
        ),
        "weighting 'fednova', which counts the steps of a cohort": aggregation.weighting == "fednova",
        "dp-noise, whose privacy counts on cohorts that are drawn": privacy.is_on,
        f"sampling {cohort.sampling!r}, which draws cohorts": not cohort.parsed_sampling.is_uniform,
        "over-sampling, which cuts rounds short": bool(cohort.over_sampling),
        "least-coverage, which draws cohorts": bool(cohort.least_coverage),
        f"downlink-scheme {compression.downlink_scheme!r}, whose anchors follow rounds": bool(
            compression.downlink_anchors
        ),
        f"engine {engine.name!r}: it goes by the simulated clock, on 'local' or 'ray'": engine.name == "flower",
        f"{cohort.num_clients} clients: it wants {max(rhythm.goal, rhythm.concurrency)}": (
            max(rhythm.goal, rhythm.concurrency) > cohort.num_clients
        ),
    }
    if reasons := [reason for reason, holds in obstacles.items() if holds]:
        raise ValueError(f"pace 'buffered' does not go with {reasons[0]}")


def _fits_sampling(
    scheme: Scheme, cohort: CohortConfig, training: TrainingConfig, aggregation: AggregationConfig
) -> None:
    if cohort.parsed_sampling.is_uniform:
        return
    what = f"sampling {cohort.sampling!r}"
    if training.is_bilevel:
        raise ValueError(f"{what} is for task 'classification'; a bilevel task samples uniformly")
    if scheme.has_memory or scheme.sets_workloads:
        raise ValueError(
            f"{what} does not go with scheme {scheme.name}, which says itself how much a client counts: take scheme "
            "'direct', or sampling 'uniform'"
        )
    if cohort.least_coverage:
        raise ValueError(f"{what} and least-coverage both say whom to draw: leave least-coverage at 0")
    if cohort.parsed_sampling.is_unbiased:
        if aggregation.weighting != "examples":
            raise ValueError(
                f"{what} is unbiased for clients that count by their examples, and weighting is "
                f"{aggregation.weighting!r}: take 'examples', or sampling 'uniform'"
            )
        if cohort.over_sampling:
            raise ValueError(f"{what} is unbiased, and over-sampling takes the fastest: leave over-sampling at 0")


def _fits_broadcast(scheme: Scheme, compression: CompressionConfig) -> None:
    if compression.downlink_anchors and not scheme.points_are_models:
        raise ValueError(
            f"downlink-scheme {compression.downlink_scheme!r} sends all points as corrections of an older model, and "
            f"scheme {scheme.name} broadcasts a control variate too, which is no model: leave it at 'direct'"
        )


def _fits_local_objective(scheme: Scheme, training: TrainingConfig) -> None:
    if not training.proximal:
        return
    if training.is_bilevel:
        raise ValueError("proximal is for task 'classification'; a bilevel problem states its losses")
    if scheme.moves_itself or scheme.takes_minibatches:
        raise ValueError(
            f"proximal draws local training back to the server's model, and scheme {scheme.name} takes gradients at "
            "points of its own choice: leave it at 0, or take a scheme of whole updates such as 'direct' or 'diana'"
        )


def _fits_objective(training: TrainingConfig, aggregation: AggregationConfig, data: DataConfig) -> None:
    """What counts on classes needs an objective and a partition that have them."""
    objective, rule = training.parsed_objective, parse_partition(data.partition)
    if not objective.is_softmax:
        for key, is_set in {
            "masked-cross-entropy": training.masked_cross_entropy,
            "average-by-label": aggregation.average_by_label,
            "distill": training.distill,
        }.items():
            if is_set:
                raise ValueError(
                    f"{key} counts on logits of one class an example, as objective 'cross_entropy' has them; got "
                    f"objective {training.objective!r}"
                )
    if objective.targets != "classes" and rule.needs_classes:
        raise ValueError(
            f"partition {data.partition!r} shares rows out by their class, and objective {training.objective!r} has "
            f"none: take 'iid' or 'by:COLUMN'"
        )


def _fits_bilevel(
    cohort: CohortConfig, training: TrainingConfig, aggregation: AggregationConfig, data: DataConfig
) -> None:
    defaults = {
        "objective": (training.objective, "cross_entropy"),
        "metrics": (training.metrics, ""),
        "evaluate-clients": (data.evaluate_clients, 0.0),
    }
    for key, (value, default) in defaults.items():
        if value != default:
            raise ValueError(f"{key} is for task 'classification', where it may be {value!r}; a bilevel task has none")
    losses = {
        "masked-cross-entropy": training.masked_cross_entropy,
        "average-by-label": aggregation.average_by_label,
        "distill": training.distill,
    }
    for key, is_set in losses.items():
        if is_set:
            raise ValueError(f"{key} is for task 'classification'; a bilevel problem states its losses")
    for key, is_set in {
        "learning-rate-drops": bool(training.learning_rate_drops),
        "learning-rate-schedule": training.learning_rate_schedule != "constant",
        "server-learning-rate-schedule": aggregation.server_learning_rate_schedule != "constant",
        "clip-norm": bool(training.clip_norm),
    }.items():
        if is_set:
            raise ValueError(f"{key} is for task 'classification'; a bilevel task has none")
    if training.client_optimizer != "sgd":
        raise ValueError(f"client-optimizer of a bilevel task is 'sgd', got {training.client_optimizer!r}")
    if cohort.width_rule in NOT_VECTORIZED:
        raise ValueError(f"width-rule of a bilevel task is 'nested', 'rolling' or 'random', got {cohort.width_rule!r}")
