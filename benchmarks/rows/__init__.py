"""The rows of the benchmark's table, by subject. Each function takes `quick` and gives a list of `timing.Row`."""
