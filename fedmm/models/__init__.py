"""Models: backbone, experts, router and fusion as pure functions of parameter dicts."""
