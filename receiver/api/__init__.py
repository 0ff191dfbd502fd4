"""The JSON API: jobs, deliveries, statistics, events, health, OpenAPI."""
