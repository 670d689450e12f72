"""The analysts' web console and the JSON API."""
