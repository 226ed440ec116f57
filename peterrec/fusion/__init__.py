"""One score from several predictions, with weights by hand or tuned."""
