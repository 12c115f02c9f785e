"""Data for the sweeps, and nothing of the user's own environment."""

from worlds.sweep_world import data, inline, plain_environment

__all__ = ["data", "inline", "plain_environment"]
