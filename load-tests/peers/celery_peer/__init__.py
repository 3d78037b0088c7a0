"""A task a page: Celery with RabbitMQ, a token bucket in Redis, requests, psycopg."""
