"""What is made ready before a run starts: its data on disk and its model. Whatever cannot run is refused here."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from fl_mlmc import own
from fl_mlmc.bilevel.run import problem_of, state_model
from fl_mlmc.clients.data import FederatedData
from fl_mlmc.clients.together import check_together
from fl_mlmc.models import Model, build_model
from fl_mlmc.models.check import check_widths
from fl_mlmc.run.config import ConfigError, RunConfig
from fl_mlmc.submodels.flat import need_parameters_only

from ..data.datasets import prepare


@dataclass(frozen=True)
class Ready:
    """The prepared data and where it lies, and the model, or the state of a bilevel problem, that the server holds."""

    place: Path
    data: FederatedData
    model: Model


def prepare_run(config: RunConfig) -> Ready:
    """Prepare `config`; ConfigError that names the key where data, model and the rest do not go together."""
    place = prepare_data(config)
    data = FederatedData.open(place)
    model = _model(config, data)
    with _blaming("scheme", config.compression.scheme):
        if config.resolved_scheme(model.spec.size).moves_itself:
            need_parameters_only(model.build(model.spec.units))
    if private := config.privacy.of(config.cohort):
        with _blaming("dp-noise", config.privacy.noise):
            private.epsilon(config.num_rounds)
    with _blaming("availability", config.time.availability):
        config.time.parsed_availability.start(config.cohort.num_clients, config.seed)
    return Ready(place, data, model)


def prepare_data(config: RunConfig) -> Path:
    """Load and partition the run's data set, unless that was done before; where it lies."""
    data = config.data
    with _blaming("dataset", data.dataset) if own.references(data.dataset) else nullcontext():
        return prepare(
            data.dataset,
            Path(data.data_dir) if data.data_dir else None,
            data.partition,
            config.cohort.num_clients,
            config.seed,
            text=data.text,
            targets="classes" if config.training.is_bilevel else config.training.parsed_objective.targets,
            target_columns=data.target_columns,
            feature_columns=data.feature_columns,
            test_share=data.test_share,
        )


def _model(config: RunConfig, data: FederatedData) -> Model:
    """What the server holds: a model, or the x, y and v of a bilevel problem."""
    shape, num_classes = data.spec.input_shape, data.spec.num_classes
    if config.training.is_bilevel:
        with _blaming("problem", config.training.problem):
            return state_model(config, problem_of(config, shape, num_classes))
    cohort, objective = config.cohort, config.training.parsed_objective
    with _blaming("model", config.training.model):
        model = build_model(config.training.model, shape, num_classes)
        shapes = objective.output_shapes(data.spec, 2)
        for width, tier in {tier.width: tier.name for tier in cohort.tier_list}.items():
            try:
                check_widths(model, cohort.width_rule, [width], shape, shapes)
            except ValueError as error:
                raise ValueError(f"{error} (tier {tier!r})") from error
    with _blaming("objective", config.training.objective):
        objective.check(data.spec)
    if config.engine.vectorize:
        check_together(model, data.spec, objective)
    return model


@contextmanager
def _blaming(key: str, value: object) -> Iterator[None]:
    """Name the key behind an error that does not."""
    try:
        yield
    except ConfigError:
        raise
    except (TypeError, ValueError, RuntimeError, MemoryError, OSError) as error:  # torch's own for sizes that cannot be
        text = str(error)
        raise ConfigError(text if f"{key} " in text else f"{key} = {value!r}: {text}") from error
