"""Little worlds that tests of several folders share: data, models, runs, studies, and what stands in for slow parts."""
