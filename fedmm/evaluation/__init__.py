"""Honest evaluation: ranking, metrics, baselines."""
