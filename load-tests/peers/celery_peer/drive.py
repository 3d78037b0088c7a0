"""Publishes a task for each page and waits until all are stored."""

import json
import sys
import time

import psycopg

import rows as plain
from celery_peer.tasks import read


def main(path):
    with open(path) as file:
        task = json.load(file)
    batch, pages = task["batch"], task["pages"]
    database = psycopg.connect(plain.database_url(), autocommit=True)
    began = time.monotonic()
    for page in pages:
        read.delay(batch, page)
    stored = "SELECT count(*) FROM plain_pages WHERE batch_id = %s"
    while database.execute(stored, (batch,)).fetchone()[0] < len(pages):
        time.sleep(0.05)
    seconds = time.monotonic() - began
    ads = database.execute("SELECT count(*) FROM plain_offers WHERE batch_id = %s", (batch,)).fetchone()[0]
    print(json.dumps({"ads": ads, "pages": len(pages), "seconds": seconds}))


if __name__ == "__main__":
    main(sys.argv[1])
