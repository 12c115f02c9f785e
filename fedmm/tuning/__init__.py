"""Studies that run: trials on Optuna's storages, workers that may be killed, and what came of it.

Only here optuna is imported.
"""
