"""What all routes share: problem documents, middleware, the HTTP protocol's limits, counters of refusals."""
