"""The settings of differential privacy: what is promised about one client, and how the promise is spent."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fedmm.config.base import Count, Finite, Positive, Rate, Section, Weight

Delta = Annotated[float, Field(gt=0.0, lt=1.0)]
Share = Annotated[float, Field(gt=0.0, lt=1.0)]


class PrivacyConfig(Section):
    """Client-level differential privacy; off unless epsilon or noise_multiplier is set."""

    epsilon: Rate | None = Field(
        None, description="bound on what all releases of the run together tell of one client; turns privacy on"
    )
    delta: Delta | None = Field(None, description="the chance that epsilon is passed (unset: N^-1.1 of N clients)")
    noise_multiplier: Rate | None = Field(
        None, description="noise of a round over its sensitivity, in place of epsilon; turns privacy on"
    )
    rounds: Positive | None = Field(
        None,
        description="rounds that the noise is set for; the run ends after them (unset: federation.rounds, but no more "
        "than 10 where item table and backbone are frozen)",
    )
    cohorts: Literal["all", "poisson", "fixed"] = Field(
        "poisson",
        description="who takes part in a private round: all clients; each with the cohort's share by itself; or a "
        "cohort of fixed size, for which neighbours differ by one client that is replaced",
    )
    mechanism: Literal["gaussian", "banded"] = Field(
        "gaussian",
        description="noise of the rounds: each round's by itself (DP-FedAvg), or taken back in part by that of the "
        "next rounds, with clients that take turns (DP-FTRL by banded matrix factorisation)",
    )
    bands: Positive | None = Field(
        None,
        description="rounds over which banded noise reaches, and the least from one visit of a client to its next "
        "(unset: those with the least noise on the sum of rounds at privacy.epsilon; with noise_multiplier the most)",
    )
    senders_share: Annotated[float, Field(gt=0.0, le=1.0)] | None = Field(
        None,
        description='share of the clients that must send, where they add the noise themselves ("noise_share" in '
        "federation.update_transforms): the account goes by their noise alone, and a round of fewer is not opened "
        "(unset: 1, or 0.8 where clients may be missing)",
    )
    accountant: Literal["rdp", "pld"] = Field(
        "rdp",
        description="who says what the releases come to: Rényi differential privacy by hand, or privacy loss "
        'distributions by dp-accounting (pip install "fedmm[pld]"), by which less noise is enough',
    )
    start_share: Share | None = Field(
        None,
        description="share of the budget for the counts before the first round (federation.spectral_start; unset: "
        "0.98 where item table and backbone are frozen, else 0.7)",
    )
    kinds: Count = Field(
        0,
        description="kinds of items, by the features that everybody has, whose pairs the start counts in place of "
        "pairs of items: for many clients and many items; 0 = pairs of items",
    )
    gating_init: Finite = Field(
        0.3,
        description="initial gating weight of a private run, in place of model.gating_init: little noise is left "
        "to learn it from",
    )
    counts_weight: Weight = Field(
        1.0, description="weight of the noisy counts of pairs and of holders, added when the model scores"
    )

    @property
    def on(self) -> bool:
        """Whether the run is private."""
        return self.epsilon is not None or self.noise_multiplier is not None

    @model_validator(mode="after")
    def _one_promise(self) -> Self:
        if self.epsilon is not None and self.noise_multiplier is not None:
            raise ValueError(
                f"epsilon {self.epsilon} and noise_multiplier {self.noise_multiplier} exclude each other: either "
                "follows from the other, give one"
            )
        if self.bands is not None and self.mechanism == "gaussian":
            raise ValueError(
                f'bands {self.bands} has no effect on mechanism "gaussian", whose noise reaches over one round: set '
                'mechanism "banded", or unset bands'
            )
        return self
