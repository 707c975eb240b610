"""The network: one Keras layer or sub-graph a file, in the order of the paper (backbone, FPN, RPN, heads)."""
