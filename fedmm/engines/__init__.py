"""Engines: ways to train a cohort that give the same updates."""
