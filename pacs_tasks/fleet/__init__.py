"""What all workers agree on about a remote: leases, outages, receivers, expectations, refusals."""
