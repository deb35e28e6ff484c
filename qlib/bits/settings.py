"""The settings of `qlib.learn_bitwidths`, each stated once. Read without torch."""

from __future__ import annotations

from dataclasses import dataclass

from ..choices import Settings, choice
from ..config import QuantConfig


@dataclass(frozen=True)
class LearnerSettings(Settings):
    """How bits by layer are learned.

    Parameters
    ----------
    target_weight_bits, target_activation_bits : float, optional
        The most bits that a side may have on average. A side without a target does not learn: it keeps the
        bits of the configuration.
    steps : int
        Steps of Adam.
    learning_rate : float
        Adam's.
    penalty : float
        What the loss grows by for every bit that an average lies above its target.
    parametrization : {"bits", "log2"}
        What Adam moves: the bits, or their binary logarithm as in the published code.
    per_channel : bool
        Whether every output channel of a weight has bits of its own.
    learn_ranges : bool
        Whether activation ranges are learned too. They must be asymmetric, static and per tensor.
    checkpoint : {"average", "authors", "last", "fill"}
        Which of the steps that meet the targets is kept. ``average``: the one with the highest exponential
        average (0.9) of the batches' accuracy over such steps, once it has seen 10. ``authors``: the
        published rule, whose average starts with the first step and so still remembers the accuracy at 8
        bits. ``last``: the last. ``fill``: that of ``average``, and what it leaves of the targets is spent
        where the loss gains most (`qlib.bits.fill`).
    batch_size : int
        Images of a step.
    allow_infeasible : bool
        Whether the closest step is kept where none meets the targets, rather than an error raised.

    Raises
    ------
    ValueError
        Naming the setting, its value and what is allowed.
    TypeError
        For a setting that is not there, with a suggestion.
    """

    target_weight_bits: float | None = choice(
        None,
        "Target of weights",
        "The most bits that weights may have on average.",
        above=0,
        side="weight",
        none="not learned",
    )
    target_activation_bits: float | None = choice(
        None,
        "Target of activations",
        "The most bits that activations may have on average.",
        above=0,
        side="activation",
        none="not learned",
    )
    steps: int = choice(1500, "Steps", "How many steps of Adam bits learn for.", least=1)
    learning_rate: float = choice(0.01, "Learning rate", "Of Adam, which moves the bits.", above=0)
    penalty: float = choice(
        2.0, "Penalty", "What the loss grows by for every bit of an average above its target.", least=0
    )
    parametrization: str = choice(
        "bits",
        "Parametrization",
        "Whether Adam moves the bits or their binary logarithm.",
        values=("bits", "log2"),
    )
    per_channel: bool = choice(
        False,
        "Bits by channel",
        "Whether every output channel of a weight has bits of its own.",
        side="weight",
    )
    learn_ranges: bool = choice(
        False, "Learned ranges", "Whether activation ranges are learned with the bits.", side="activation"
    )
    checkpoint: str = choice(
        "average",
        "Step that is kept",
        "The best by an average of the accuracy, by the published rule, or the last; or the best, with the "
        "rest of the budget spent where the loss gains most.",
        values=("average", "authors", "last", "fill"),
    )
    batch_size: int = choice(32, "Batch size", "Images of a step.", least=1, since="0.1.1")
    allow_infeasible: bool = choice(
        False,
        "Targets may be missed",
        "Whether the closest step is kept where none meets the targets.",
        since="0.1.1",
    )

    @property
    def targets(self) -> dict[str, float]:
        """The target of every side that learns, by ``"weight"`` and ``"activation"``."""
        given = {"weight": self.target_weight_bits, "activation": self.target_activation_bits}
        return {side: target for side, target in given.items() if target is not None}


def check_config(settings: LearnerSettings, config: QuantConfig) -> None:
    """Raise ``ValueError`` where ``settings`` leave nothing to learn, or nothing that ``config`` has."""
    if not isinstance(config, QuantConfig):
        raise ValueError(f"config must be a QuantConfig, got {type(config).__name__}")
    if not settings.targets:
        raise ValueError("nothing to learn: give target_weight_bits, target_activation_bits or both")
    for side in settings.targets:
        if getattr(config, f"{side}_bits") is None:
            raise ValueError(f"target_{side}_bits is given, but {side}_bits=None leaves that side in float")
    asymmetric = not config.activation_symmetric and config.activation_granularity == "per_tensor"
    can_learn = asymmetric and not config.activation_dynamic and "activation" in settings.targets
    if settings.learn_ranges and not can_learn:
        raise ValueError(
            "learn_ranges learns static, asymmetric, per-tensor activation ranges together with activation "
            "bits (paper, appendix A): give target_activation_bits and such a configuration"
        )
