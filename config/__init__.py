"""Settings (the only reader of the environment), the policy document and logging; builds what stages own."""
