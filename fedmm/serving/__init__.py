"""Takes trained models out of fedmm: files for other runtimes, and a server."""
