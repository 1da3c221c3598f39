"""What all tasks share: chords, claims, leases, associations, retries."""
