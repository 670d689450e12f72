"""Pure detection: event, features, velocity, rules, models and decision; no clock, no I/O, no environment."""
