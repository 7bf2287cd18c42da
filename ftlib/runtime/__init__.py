"""The Ray cluster: connect, preflight, submit, exchange of partitions, and the frame every job runs in."""
