"""One process: asyncio, aiohttp, orjson, and asyncpg with COPY in big groups."""

import asyncio
import json
import os
import sys
import time

import aiohttp
import asyncpg
import orjson

import rows as plain

CONNECTIONS = 50
GROUP = 2_000


async def main(path):
    with open(path) as file:
        task = json.load(file)
    batch, pages = task["batch"], [tuple(page) for page in task["pages"]]
    url = os.environ["BINANCE_BASE_URL"] + plain.SEARCH
    database = await asyncpg.connect(plain.database_url())
    todo, done = asyncio.Queue(), asyncio.Queue(CONNECTIONS * 2)
    for page in pages:
        todo.put_nowait(page)
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
    seconds, cpu_seconds = time.monotonic() - began, time.process_time() - cpu
    print(json.dumps({"ads": ads, "pages": len(pages), "seconds": seconds, "cpu_seconds": cpu_seconds}))


if __name__ == "__main__":
    try:
        import uvloop
    except ImportError:
        asyncio.run(main(sys.argv[1]))
    else:
        uvloop.run(main(sys.argv[1]))
