"""What every part needs and none is about: parameter algebra, streams, threads, time, files, words."""
