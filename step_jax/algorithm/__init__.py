"""The algorithm: pure functions of arrays, in the paper's own terms."""
