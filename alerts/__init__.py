"""What people are told: the one list of metrics with their meaning and remedy."""
