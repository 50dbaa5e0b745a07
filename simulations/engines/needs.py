"""What clients take of a machine: processors and GPUs, the same for all or by tier."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from flwr.app import Message

from fl_mlmc.run.config.engine import EngineConfig
from fl_mlmc.run.protocol import CONFIG
from fl_mlmc.submodels import Tier


@dataclass(frozen=True)
class Need:
    """`cpus` processors and `gpus` GPUs for one client; a fraction of a GPU shares it with others."""

    cpus: float = 1.0
    gpus: float = 0.0

    def __str__(self) -> str:
        return f"{self.cpus:g} processors" + (f" and {self.gpus:g} GPUs" if self.gpus else "")

    def slots(self, resources: Mapping[str, float]) -> int:
        """How many clients of this need a machine with such resources ("CPU", "GPU") carries at once."""
        by_cpus = int(resources.get("CPU", 0) / self.cpus + 1e-9)
        return min(by_cpus, int(resources.get("GPU", 0) / self.gpus + 1e-9)) if self.gpus else by_cpus

    @staticmethod
    def fit(needs: "Sequence[Need]", resources: Mapping[str, float]) -> bool:
        """Whether a machine with such resources carries all of these at once."""
        cpus, gpus = (sum(need.cpus for need in needs), sum(need.gpus for need in needs))
        return cpus <= resources.get("CPU", 0) + 1e-9 and gpus <= resources.get("GPU", 0) + 1e-9


@dataclass(frozen=True)
class Needs:
    """The need of each message's client: that of its tier, or else `usual`."""

    usual: Need = field(default_factory=Need)
    by_tier: Mapping[str, Need] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shares = {need.gpus for need in self.kinds if need.gpus}
        if len(shares) > 1 and max(shares) > 1:
            raise ValueError(
                f"tiers take {', '.join(f'{share:g}' for share in sorted(shares))} GPUs: where these differ, a client "
                "takes at most one"
            )

    @classmethod
    def of_config(cls, engine: EngineConfig, tiers: Iterable[Tier]) -> "Needs":
        """What `client-cpus`, `client-gpus` and the tiers' options `cpus` and `gpus` say."""
        usual = Need(engine.client_cpus, engine.client_gpus)
        return cls(
            usual,
            {
                tier.name: Need(
                    usual.cpus if tier.cpus is None else tier.cpus,
                    usual.gpus if tier.gpus is None else tier.gpus,
                )
                for tier in tiers
            },
        )

    def of(self, message: Message) -> Need:
        """What the client that `message` goes to takes."""
        told = message.content.config_records.get(CONFIG)
        return self.by_tier.get(str(told["tier"]), self.usual) if told and "tier" in told else self.usual

    @property
    def kinds(self) -> set[Need]:
        """Every need that may turn up."""
        return set(self.by_tier.values()) or {self.usual}
