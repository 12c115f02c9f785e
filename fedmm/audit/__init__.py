"""Attacks on a run, as measurements: what its releases tell, and how far wrong clients bend it."""
