"""Starts PostgreSQL, Valkey and a Kafka-protocol broker from their wheels, and a real Apache Kafka for fault tests."""
