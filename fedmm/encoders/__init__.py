"""Encoders: from an item's text to a vector, and from long vectors to short ones."""
