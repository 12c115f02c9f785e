"""A federation whose clients are really apart: silos that keep their users' data, and a server that leads rounds."""
