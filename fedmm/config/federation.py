"""The settings of the federation: who trains when, how clients train and how the server joins their updates."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fedmm.config.base import Count, Fraction, Positive, Rate, Section, Weight
from fedmm.config.parts import named, sees_single_updates

SERVER_FLOOR = 1e-3
SERVER_RATES = {"sgd": 1.0, "momentum": 0.3}  # of the plain optimizers; the others' steps do not grow with the update


class FederationConfig(Section):
    """Who trains when, how clients train and how the server joins their updates."""

    mode: Literal["federated", "centralized"] = Field(
        "federated", description="centralized: pooled data and one optimizer, the reference; rounds are then epochs"
    )
    recipe: Literal["auto", "standard", "sparse"] = Field(
        "auto",
        description="what is trained by where local_steps, num_negatives, server_learning_rate and server_epsilon are "
        "unset: standard, few long visits; sparse, one local step, 512 negatives, an adaptive server that does without "
        "a floor; auto: sparse beyond 5,000 items where the median history has at most 20",
    )
    rounds: Positive = Field(30, description="rounds of training")
    client_fraction: Annotated[float, Field(gt=0.0, le=1.0)] = Field(0.2, description="share of clients a round")
    cohort_size: Positive | None = Field(None, description="clients a round; replaces client_fraction")
    cohort_sampler: Annotated[str, *named("cohort_sampler")] = Field(
        "uniform", description="how a round's clients are drawn; rotation: everyone once before anyone twice"
    )
    local_steps: Positive | None = Field(None, description="local steps a round (unset: 3, sparse recipe: 1)")
    local_epochs: Positive | None = Field(
        None, description="local passes over a client's windows; replaces local_steps"
    )
    batch_size: Positive = Field(32, description="windows per local step")
    local_algorithm: Literal["fedavg", "scaffold"] = Field(
        "fedavg",
        description="fedavg (FedProx where proximal_mu is above 0); scaffold: control variates against client drift "
        "(twice the traffic, all item rows travel, checkpoints grow by a model for each client that has trained)",
    )
    local_optimizer: Annotated[str, *named("local_optimizer")] = Field("sgd", description="the client's optimizer")
    learning_rate: Rate = Field(0.3, description="the client's learning rate")
    learning_rate_schedule: Annotated[str, *named("learning_rate_schedule")] = Field(
        "constant", description="the client's learning rate over the rounds; linear and cosine fall to zero at the end"
    )
    weight_decay: Weight = Field(0.0, description="the client's weight decay")
    clip_norm: Rate | None = Field(1.0, description="bound on the norm of a local gradient (unset: none)")
    proximal_mu: Weight = Field(0.0, description="FedProx: weight of the distance to the server's parameters")
    loss: Annotated[str, *named("loss")] = Field(
        "softmax", description="softmax over candidates, or the next item against each negative: gbce, bpr"
    )
    gbce_calibration: Annotated[float, Field(ge=0.0, le=1.0)] = Field(
        0.75, description="how far gbce undoes the overconfidence of sampling: 0 not at all, 1 in full"
    )
    num_negatives: Count | None = Field(
        None,
        description="training negatives a local step; 0 = all; unset = all, 255 beside memory experts, "
        "256 with gbce and bpr, 512 by the sparse recipe",
    )
    logq_correction: bool = Field(
        False, description="correct sampled softmax for how often an item is drawn; needs num_negatives"
    )
    negatives_per: Literal["step", "round"] = Field(
        "step", description="how often a client draws its negatives: fresh ones each local step, or once a round"
    )
    item_rows: Literal["touched", "all"] = Field(
        "touched",
        description="rows of the item table that travel where training negatives are sampled: all hides which",
    )
    exclude_seen: bool = Field(
        True,
        description="leave what a client met before out of its training candidates; with gbce and bpr all its items",
    )
    warmup_rounds: Count = Field(0, description="first rounds, in which only the backbone trains (partial aggregation)")
    aggregation: Annotated[str, *named("aggregation")] = Field(
        "heat", description="weighted mean, or item rows by their holders; median and trimmed_mean see single updates"
    )
    trim_fraction: Annotated[float, Field(ge=0.0, lt=0.5)] = Field(
        0.1, description="share of the votes that trimmed_mean leaves out at each end"
    )
    heat_cap: Annotated[float, Field(ge=1.0, allow_inf_nan=False)] = Field(
        5.0, description="largest factor of the heat normalisation"
    )
    client_weighting: Literal["positions", "uniform"] = Field("uniform", description="weight of a client's update")
    server_optimizer: Annotated[str, *named("server_optimizer")] = Field("adam", description="the server's optimizer")
    server_learning_rate: Rate | None = Field(
        None,
        description="the server's learning rate (unset: 1 for sgd, 0.3 for momentum, 0.02 for the adaptive ones, 0.01 "
        "by the sparse recipe)",
    )
    server_beta1: Fraction = Field(0.8, description="momentum of momentum, adam and yogi")
    server_beta2: Fraction = Field(0.9, description="second-moment decay of adam and yogi")
    server_epsilon: Rate | None = Field(
        None, description="adaptivity floor tau of adam, yogi and adagrad (unset: 1e-3, sparse recipe: 1e-8)"
    )
    ema_decay: Fraction = Field(
        0.9,
        description="decay of the moving average of the parameters over rounds, which is evaluated and kept, while "
        "training goes on from the newest (0: the newest are)",
    )
    spectral_start: bool = Field(True, description="begin from a spectral factor of the summed transition counts")
    spectral_sketch_size: Positive | None = Field(
        None, description="columns of the sketch of the counts that clients send instead of all counts (unset: all)"
    )

    count_sums: Literal["auto", "dense", "grouped", "open"] = Field(
        "auto",
        description="how clients' transition counts are summed: dense, all pairs of items; grouped, small tables in "
        "secure sums of groups; open, each client's own pairs; auto: dense up to 5,000 items, else grouped",
    )
    counts_received: Literal["auto", "all", "largest"] = Field(
        "auto",
        description="which of the densely summed counts all clients receive, where they receive them: all, or the "
        "largest, 80 an item (as after other sums); auto: all where model.transition trains with them or items are "
        "few, else the largest",
    )

    item_table: Literal["trained", "frozen"] | None = Field(
        None,
        description="whether the item table trains and travels each round, or stays as it started (unset: trained; "
        "frozen in a private run)",
    )
    backbone: Literal["trained", "frozen"] | None = Field(
        None,
        description="whether the backbone beside the item table trains, or stays as it started (unset: trained; frozen "
        "in a private run with experts)",
    )
    trained_size: Positive | None = Field(
        None,
        description="numbers of the largest parameter that trains beside the item table, the others stay as they "
        "started (unset: any; 1000 in a private run whose backbone is frozen)",
    )
    update_transforms: tuple[Annotated[str, *named("update_transform")], ...] = Field(
        (),
        description="what happens to an update before the server reads the sum, in this order (private: clip, noise)",
    )
    update_clip: Rate = Field(
        1.0, description="bound on the norm of the update that a client sends, where it is clipped"
    )
    update_clip_quantile: Annotated[float, Field(gt=0.0, lt=1.0)] | None = Field(
        None,
        description="share of the updates that the bound lets through whole: it follows their norms, from update_clip "
        "on, by a bit that each client adds to its update (unset: the bound stays)",
    )
    update_rank: Positive = Field(
        16,
        description="random directions, at most D, in which low_rank sends the item table's part of an update",
    )
    update_bits: Annotated[int, Field(ge=2, le=16)] = Field(
        8, description="bits of each number of an update that is rounded"
    )
    update_clip_by: Literal["whole", "part"] = Field(
        "whole", description="clips the whole update, or each parameter's part to an equal share of the bound"
    )

    upload_bits: Annotated[int, Field(ge=2, le=16)] | None = Field(
        None,
        description="bits of each number of an update, rounded by chance, each row with a step of its own (unset: not "
        "rounded); open mode: secure sums round by update_transforms",
    )
    download_bits: Annotated[int, Field(ge=2, le=16)] | None = Field(
        None,
        description="bits of each number that a client receives at the start of a round, rounded to the nearest; the "
        "server keeps the exact ones (unset: not rounded)",
    )

    upload_share: Annotated[float, Field(gt=0.0, le=1.0)] | None = Field(
        None,
        description="share of a parameter's numbers that a client sends, the largest ones; what it holds back joins "
        "its next update (error feedback; unset: all); open mode",
    )
    upload_step: Annotated[float, Field(gt=0.0, le=64.0)] | None = Field(
        None,
        description="updates travel as whole numbers of steps, coded without loss: a row's step, in its largest "
        "number; 1 and above make them -1, 0 or 1 (unset: not rounded); open mode",
    )
    download_step: Annotated[float, Field(gt=0.0, le=8.0)] | None = Field(
        None,
        description="clients receive what has changed since they were last there, in steps of this share of a "
        "parameter's root mean square, coded without loss (unset: all parameters)",
    )
    absence_rate: Fraction = Field(
        0.0, description="chance that a client of a round drops out before its update arrives"
    )
    over_selection: Annotated[float, Field(ge=1.0, le=10.0)] = Field(
        1.0, description="clients that a round asks over those it waits for; the first to answer count"
    )
    late_updates: Literal["lost", "buffered"] = Field(
        "lost",
        description="what becomes of updates that a round did not wait for (over_selection above 1): lost, or they "
        "join the next rounds, counting 1 / sqrt(1 + rounds that they are behind) (FedBuff)",
    )
    deadline: Rate | None = Field(
        None,
        description="time after which a round waits no longer, in windows on a device of median speed (unset: none)",
    )
    speed_spread: Weight = Field(
        0.5, description="standard deviation of the log speed of devices, where a deadline or over_selection reads it"
    )
    day_rounds: Annotated[int, Field(ge=2)] | None = Field(
        None,
        description="rounds of a day, in half of which, by hours of its own, a client can be asked (unset: always)",
    )

    @property
    def steps_per_round(self) -> int:
        """Local steps where ``local_epochs`` does not decide."""
        return self.local_steps or 3

    @property
    def server_rate(self) -> float:
        """The server's learning rate; one that suits its optimizer where none is set."""
        return self.server_learning_rate or SERVER_RATES.get(self.server_optimizer, 0.02)

    @property
    def server_floor(self) -> float:
        """The adaptivity floor tau."""
        return SERVER_FLOOR if self.server_epsilon is None else self.server_epsilon

    @model_validator(mode="after")
    def _scaffold_fits(self) -> Self:
        if self.local_algorithm != "scaffold":
            return self
        if self.mode == "centralized":
            raise ValueError(
                'local_algorithm "scaffold" corrects clients, and mode "centralized" has none: '
                'set local_algorithm "fedavg"'
            )
        if self.local_optimizer != "sgd":
            raise ValueError(
                f'local_algorithm "scaffold" is for plain SGD, not for local_optimizer {self.local_optimizer!r}: '
                'set local_optimizer "sgd"'
            )
        if self.proximal_mu:
            raise ValueError(
                f'local_algorithm "scaffold" and proximal_mu {self.proximal_mu} are two remedies for one drift: '
                "give one"
            )
        if self.client_weighting != "uniform" or sees_single_updates(self.aggregation):
            raise ValueError(
                f'local_algorithm "scaffold" steers by the uniform mean of clients, not by client_weighting '
                f"{self.client_weighting!r} and aggregation {self.aggregation!r}: "
                'set client_weighting "uniform" and aggregation "mean" or "heat"'
            )
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.local_steps is not None and self.local_epochs is not None:
            raise ValueError(
                f"local_steps {self.local_steps} and local_epochs {self.local_epochs} exclude each other: give one"
            )
        if sees_single_updates(self.aggregation) and self.client_weighting != "uniform":
            raise ValueError(
                f"client_weighting {self.client_weighting!r} has no effect on aggregation {self.aggregation!r}, in "
                'which every client has one vote: set client_weighting "uniform"'
            )
        if len(set(self.update_transforms)) < len(self.update_transforms):
            raise ValueError(f"update_transforms {list(self.update_transforms)} names one twice")
        if self.update_transforms and (self.client_weighting != "uniform" or sees_single_updates(self.aggregation)):
            raise ValueError(
                f"update_transforms {list(self.update_transforms)} act on a sum of equal clients, not by "
                f"client_weighting {self.client_weighting!r} and aggregation {self.aggregation!r}: "
                'set client_weighting "uniform" and aggregation "mean" or "heat", or update_transforms []'
            )
        if self.logq_correction and self.loss != "softmax":
            raise ValueError(
                f"logq_correction has no effect on loss {self.loss!r}, which compares single items: "
                'set logq_correction false or loss "softmax"'
            )
        if self.logq_correction and not self.num_negatives:
            shown = "unset" if self.num_negatives is None else self.num_negatives
            raise ValueError(
                f"logq_correction corrects for sampled negatives, and num_negatives is {shown}: "
                "set num_negatives to 1 or more, or logq_correction false"
            )
        if self.spectral_sketch_size is not None and not self.spectral_start:
            raise ValueError(
                f"spectral_sketch_size {self.spectral_sketch_size} has no effect without spectral_start: "
                "unset spectral_sketch_size, or set spectral_start true"
            )
        if self.warmup_rounds >= self.rounds:
            raise ValueError(
                f"warmup_rounds {self.warmup_rounds} leaves no round of {self.rounds} for the experts: "
                "lower warmup_rounds or raise rounds"
            )
        return self

    @model_validator(mode="after")
    def _largest_alone(self) -> Self:
        if self.upload_share is None or self.upload_share >= 1:
            return self
        named = f"upload_share {self.upload_share:g}"
        for name in ("upload_bits", "upload_step"):
            if getattr(self, name) is not None:
                raise ValueError(
                    f"{named} sends numbers as they are, and {name} {getattr(self, name):g} rounds them: give one"
                )
        if self.update_transforms:
            raise ValueError(
                f"{named} sends other places of each update, and update_transforms {list(self.update_transforms)} act "
                'on what is summed: give one ("low_rank" in update_transforms is addable)'
            )
        if sees_single_updates(self.aggregation):
            raise ValueError(
                f"{named} sends mostly nothing, which is what aggregation {self.aggregation!r} of single updates would "
                'make of it: unset upload_share, or set aggregation "mean" or "heat"'
            )
        if self.local_algorithm == "scaffold":
            raise ValueError(
                f'{named} holds updates back, and the control variates of local_algorithm "scaffold" travel whole: '
                'unset upload_share, or set local_algorithm "fedavg"'
            )
        return self

    @model_validator(mode="after")
    def _rounded_once(self) -> Self:
        for rounding, stepping in (("upload_bits", "upload_step"), ("download_bits", "download_step")):
            bits, step = getattr(self, rounding), getattr(self, stepping)
            if bits is not None and step is not None:
                raise ValueError(f"{rounding} {bits} and {stepping} {step:g} round the same message: give one")
        if self.update_clip_quantile is not None and self.update_clip_by == "part":
            raise ValueError(
                f'update_clip_quantile {self.update_clip_quantile:g} follows whole norms, and update_clip_by "part" '
                'clips parts: set update_clip_by "whole"'
            )
        if self.update_transforms and self.upload_step is not None:
            raise ValueError(
                f"upload_step {self.upload_step:g} rounds single updates, and update_transforms "
                f'{list(self.update_transforms)} act on what is summed: give one ("round" in update_transforms, of '
                "update_bits, is addable)"
            )
        if self.update_transforms and self.upload_bits is not None:
            raise ValueError(
                f"upload_bits {self.upload_bits} rounds single updates, and update_transforms "
                f'{list(self.update_transforms)} act on what is summed: give one ("round" in update_transforms, of '
                "update_bits, is addable)"
            )
        return self
