"""What cannot run is refused before anything starts, by key, whatever raised it."""

import pytest

from fl_mlmc.run.config import ConfigError, RunConfig
from fl_mlmc.simulations.app.prepare import prepare_run


@pytest.mark.parametrize(
    "model",
    [
        "mlp(hidden=(-1,))",
        "mlp(hidden=(0,))",
        "mlp(hidden=3)",
        "mlp(hidden=('a',))",
        "cnn(conv=(0,))",
        "cnn(dense=1.5)",
        "cnn(dense='x')",
        "resnet18(norm='x')",
        "transformer",
        "char_lstm",
    ],
)
def test_a_model_that_cannot_be_built_is_named(small: RunConfig, model: str) -> None:
    with pytest.raises(ConfigError, match="model"):
        prepare_run(small.changed(model=model))
