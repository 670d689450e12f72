"""Settings, the only reader of the environment, the policy document, and logging; builds the parameters that stages own."""
