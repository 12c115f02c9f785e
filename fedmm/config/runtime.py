"""Settings of the machine's side of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fedmm.config.base import Count, Positive, Section


class RuntimeConfig(Section):
    """The machine's side of a run."""

    seed: Count = Field(0, description="seed of initialisation, cohorts and local training")
    device: str = Field(
        "auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="where to compute: cpu, cuda, cuda:N, mps or auto"
    )
    dtype: Literal["float32", "float64"] = Field("float32", description="type of parameters, sums and updates")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "float32",
        description="what training rounds the operands of the item scores and of their gradients to; float32 rounds "
        "nothing, auto is bfloat16 where the hardware multiplies it by itself",
    )
    kernels: Literal["auto", "native", "torch"] = Field(
        "auto",
        description="what trains a client: native is code in C that this machine's compiler builds once (float32, on a "
        "processor), torch its own operations; auto is native where there is a compiler",
    )
    threads: Annotated[int, Field(ge=0, le=1024)] = Field(
        0, description="CPU threads; 0 = as many as there are, or as OMP_NUM_THREADS says"
    )
    engine: Literal["vectorized", "sequential", "cluster"] = Field(
        "vectorized", description="how a cohort is trained; cluster: the vectorized engine's blocks by workers of Ray"
    )
    workers: Count = Field(0, description="workers of the engine cluster; 0 = as many as it has processors")
    ray_address: str | None = Field(
        None, description="address of the Ray cluster, such as auto (unset: one of this machine, for this run)"
    )
    block_size: Positive = Field(32, description="most clients trained at once by the vectorized engine")
    checkpoint_every: Positive = Field(1, description="rounds between checkpoints")
    start_from: Path | None = Field(
        None, description="run to go on from with the new events of data.path: a warm start with new users and items"
    )
    output: Path | None = Field(None, description="run folder (default: a new one under runs/)")

    @model_validator(mode="after")
    def _rounds_float32_alone(self) -> Self:
        if self.precision == "bfloat16" and self.dtype == "float64":
            raise ValueError(
                'precision "bfloat16" and dtype "float64" exclude each other: set precision "float32", '
                'or dtype "float32"'
            )
        return self

    @model_validator(mode="after")
    def _builds_what_trains(self) -> Self:
        for name, value, other in (("dtype", self.dtype, "float32"), ("engine", self.engine, "vectorized")):
            if self.kernels == "native" and value in ("float64", "sequential"):
                raise ValueError(
                    f'kernels "native" and {name} "{value}" exclude each other: set kernels "auto", or {name} "{other}"'
                )
        return self

    @model_validator(mode="after")
    def _workers_are_of_a_cluster(self) -> Self:
        for name, value in (("workers", self.workers), ("ray_address", self.ray_address)):
            if value and self.engine != "cluster":
                raise ValueError(f'{name} {value} has no effect on engine "{self.engine}": set engine "cluster"')
        return self
