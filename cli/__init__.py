"""The `pointguard` commands, one a file, and the supervisor of `up`."""
