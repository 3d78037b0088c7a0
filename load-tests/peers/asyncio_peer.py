"""asyncio, aiohttp, orjson, and asyncpg with COPY in big groups: by one process, or by several that share the pages."""

import asyncio
import json
import multiprocessing
import os
import sys
import time

import aiohttp
import asyncpg
import orjson

import rows as plain

try:
    from uvloop import run
except ImportError:
    from asyncio import run

CONNECTIONS = 50  # of each process
GROUP = 2_000
PATIENCE_SECONDS = 60  # until all processes are ready


def get_ready(barrier):
    global start
    start = barrier


def share(batch, pages):
    return run(work(batch, pages))


async def work(batch, pages):
    """Reads and stores pages: the ads, when it began and ended, and its CPU between the two."""
    url = os.environ["BINANCE_BASE_URL"] + plain.SEARCH
    database = await asyncpg.connect(plain.database_url())
    todo, done = asyncio.Queue(), asyncio.Queue(CONNECTIONS * 2)
    for page in pages:
        todo.put_nowait(page)
    start.wait(PATIENCE_SECONDS)
    began, cpu = time.monotonic(), time.process_time()
    ads = 0

    async def fetch(session):
        while not todo.empty():
            page = todo.get_nowait()
            async with session.post(url, data=orjson.dumps(plain.body(page)), headers={"content-type": "application/json"}) as answer:
                answer.raise_for_status()
                body = await answer.read()
            await done.put((page, *plain.rows(batch, page, orjson.loads(body))))

    async def write(group, noted):
        async with database.transaction():
            await database.copy_records_to_table("plain_pages", records=noted, columns=["batch_id", "fiat", "asset", "trade_type", "page", "total"])
            await database.copy_records_to_table("plain_offers", records=group, columns=plain.COLUMNS)

    async def store():
        nonlocal ads
        group, noted = [], []
        for _ in pages:
            page, records, total = await done.get()
            group += records
            noted.append((batch, *page, total))
            if len(group) >= GROUP:
                await write(group, noted)
                ads += len(group)
                group, noted = [], []
        if noted:
            await write(group, noted)
            ads += len(group)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONNECTIONS)) as session:
        await asyncio.gather(store(), *(fetch(session) for _ in range(CONNECTIONS)))
    return ads, began, time.monotonic(), time.process_time() - cpu


def main(path, processes):
    with open(path) as file:
        task = json.load(file)
    batch, pages = task["batch"], [tuple(page) for page in task["pages"]]
    context = multiprocessing.get_context("fork")
    # None gets a second share, for all wait until each has one.
    with context.Pool(processes, get_ready, [context.Barrier(processes)]) as pool:
        shares = [(batch, pages[number::processes]) for number in range(processes)]
        ads, began, ended, cpu = zip(*pool.starmap(share, shares, chunksize=1))
    print(json.dumps({"ads": sum(ads), "pages": len(pages), "seconds": max(ended) - min(began), "cpu_seconds": sum(cpu)}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
