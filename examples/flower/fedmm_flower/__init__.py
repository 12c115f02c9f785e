"""A federation of fedmm as a Flower app."""
