"""Comparisons of finished runs: paired by user, over seeds, with the words that the numbers allow."""
