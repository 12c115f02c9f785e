"""The federation: cohorts, local training, aggregation, server optimizers."""
