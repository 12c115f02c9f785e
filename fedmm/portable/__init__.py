"""A trained model apart from its data and its federation: tensors and settings in one file."""
