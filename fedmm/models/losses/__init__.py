"""The losses a client may train with."""
