"""Connecting to Kafka: what the consumer, the jobs and the vector tables of serving have in common."""
