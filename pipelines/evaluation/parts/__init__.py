"""Each figure of an evaluation."""
