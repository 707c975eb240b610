"""The rows of the benchmark's table, by subject. Each function takes `quick` and returns a list of `timing.Row`."""
