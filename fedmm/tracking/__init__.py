"""Where runs report: MLflow, behind a tracker that outlives it."""
