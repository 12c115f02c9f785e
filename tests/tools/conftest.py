"""Data for sweeps that results are collected from, and nothing of the user's own environment."""

from worlds.sweep_world import data, inline, plain_environment

__all__ = ["data", "inline", "plain_environment"]
