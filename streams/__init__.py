"""The Faust application: from Kafka through the pipeline into one PostgreSQL transaction per batch, and out again."""
