"""Reference pages that the code writes itself: settings, the command line, parts, and the schemas of results."""
