"""The worker: `celery -A celery_peer.tasks worker`."""

import os
import time

import orjson
import psycopg
import redis
import requests
from celery import Celery
from celery.signals import worker_process_init
from kombu import Queue

import rows as plain

app = Celery("celery_peer", broker=os.environ["AMQP_URL"].split("?")[0])
app.conf.update(
    task_acks_late=True,  # a killed worker loses no page, as with ours,
    task_reject_on_worker_lost=True,  # nor does a killed process of its pool
    task_ignore_result=True,
    worker_prefetch_multiplier=8,
    broker_transport_options={"confirm_publish": True},
    task_default_queue=os.environ["PEER_QUEUE"],
    task_queues=[Queue(os.environ["PEER_QUEUE"], durable=True, auto_delete=True)],  # goes with the measurement
)

# Tokens and the time of the last look; no limit is met, but it is asked.
BUCKET = """
local rate, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local seen = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens = math.min(burst, (tonumber(seen[1]) or burst) + (now - (tonumber(seen[2]) or now)) * rate)
local granted = tokens >= 1
if granted then tokens = tokens - 1 end
redis.call('HSET', KEYS[1], 'tokens', tokens, 'at', now)
return granted and 1 or 0
"""
INSERT = f"INSERT INTO plain_offers ({', '.join(plain.COLUMNS)}) VALUES ({', '.join(['%s'] * len(plain.COLUMNS))})"


class Own:
    """Connections of one process of the pool."""


own = Own()


@worker_process_init.connect
def connect(**_):
    own.session = requests.Session()
    own.database = psycopg.connect(plain.database_url())
    own.bucket = redis.Redis.from_url(os.environ["REDIS_URL"]).register_script(BUCKET)
    own.url = os.environ["BINANCE_BASE_URL"] + plain.SEARCH


@app.task(bind=True, max_retries=3)
def read(self, batch, page):
    while not own.bucket(keys=[os.environ["PEER_QUEUE"]], args=[16_667, 1_000]):
        time.sleep(0.01)
    try:
        answer = own.session.post(own.url, json=plain.body(page), timeout=30)
        answer.raise_for_status()
    except requests.RequestException as error:
        raise self.retry(exc=error, countdown=1)
    records, total = plain.rows(batch, page, orjson.loads(answer.content))
    with own.database.transaction(), own.database.cursor() as cursor:
        cursor.execute("INSERT INTO plain_pages VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING", (batch, *page, total))
        if cursor.rowcount and records:
            cursor.executemany(INSERT, records)
