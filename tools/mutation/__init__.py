"""Mutation testing: one small change of the code at a time, and who notices."""
