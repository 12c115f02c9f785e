"""The experts that add to the backbone."""
