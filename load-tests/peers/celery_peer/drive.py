"""Publishes a task for each page and waits until all are stored."""

import json
import sys
import time

import psycopg

import rows as plain
from celery_peer.tasks import read

PATIENCE_SECONDS = 60  # without a further page; each is retried for a few seconds
NAMED = 5  # of the pages that are missing


def wait(database, batch, pages):
    """Until all pages are stored; ends with an error that names some if none is stored any more."""
    count = "SELECT count(*) FROM plain_pages WHERE batch_id = %s"
    stored, since = 0, time.monotonic()
    while stored < len(pages):
        time.sleep(0.05)
        before, stored = stored, database.execute(count, (batch,)).fetchone()[0]
        if stored > before:
            since = time.monotonic()
        elif time.monotonic() - since > PATIENCE_SECONDS:
            there = "SELECT fiat, asset, trade_type, page FROM plain_pages WHERE batch_id = %s"
            missing = sorted(set(map(tuple, pages)) - set(database.execute(there, (batch,)).fetchall()))
            names = ", ".join(" ".join(map(str, page)) for page in missing[:NAMED])
            more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
            sys.exit(f"{len(missing)} of {len(pages)} pages are missing, none was stored for {PATIENCE_SECONDS} s: {names}{more}")


def main(path):
    with open(path) as file:
        task = json.load(file)
    batch, pages = task["batch"], task["pages"]
    database = psycopg.connect(plain.database_url(), autocommit=True)
    began, cpu = time.monotonic(), time.process_time()
    for page in pages:
        read.delay(batch, page)
    wait(database, batch, pages)
    seconds, cpu_seconds = time.monotonic() - began, time.process_time() - cpu
    ads = database.execute("SELECT count(*) FROM plain_offers WHERE batch_id = %s", (batch,)).fetchone()[0]
    print(json.dumps({"ads": ads, "pages": len(pages), "seconds": seconds, "cpu_seconds": cpu_seconds}))


if __name__ == "__main__":
    main(sys.argv[1])
