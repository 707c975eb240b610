"""The network: one Keras layer or sub-graph per file, in the order of the paper (backbone, FPN, RPN, heads)."""
