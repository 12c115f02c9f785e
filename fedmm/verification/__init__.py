"""Checks of the architecture, the federation, the honesty of the numbers and the data, for a reviewer and the tests."""
