"""A whole run: training, its folder, its checkpoints, its result and its evaluation."""
