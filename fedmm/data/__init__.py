"""Data: readers, datasets, splits, features and negatives."""
