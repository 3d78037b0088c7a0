"""Reads an export of `p2p export` with pyarrow and compares it, row for row, with the database.

    check_export.py DIR DATABASE_URL

Needs psql and pyarrow (dev/check-export brings both). Exit codes: 0 equal, 1 differs.
The statements here are written apart from those of the export on purpose.
"""

import csv
import datetime
import decimal
import hashlib
import json
import pathlib
import subprocess
import sys

import pyarrow
import pyarrow.parquet

# COPY gives long texts; the default of 128 KiB is too small for none of ours, but costs nothing.
csv.field_size_limit(16 << 20)

OFFERS = """
SELECT o.*, e.exchange_name, f.currency_code AS fiat_code, c.symbol AS crypto_symbol, a.advertiser, a.user_no,
       a.is_merchant, ARRAY(SELECT p.identifier FROM warehouse.dim_payment_methods p
                             WHERE p.payment_method_id = ANY (o.payment_method_ids) ORDER BY 1) AS payment_methods
  FROM warehouse.fact_offers o
  JOIN warehouse.dim_exchanges e USING (exchange_id)
  JOIN warehouse.dim_fiat_currencies f USING (fiat_id)
  JOIN warehouse.dim_cryptocurrencies c USING (crypto_id)
  JOIN warehouse.dim_advertisers a USING (advertiser_sk)
 WHERE o.day = '{day}' AND o.batch_id IN ({batches})"""
BOOKS = """
SELECT b.*, e.exchange_name, f.currency_code AS fiat_code, c.symbol AS crypto_symbol, m.trade_type
  FROM warehouse.books b
  JOIN warehouse.dim_markets m USING (market_id)
  JOIN warehouse.dim_exchanges e USING (exchange_id)
  JOIN warehouse.dim_fiat_currencies f USING (fiat_id)
  JOIN warehouse.dim_cryptocurrencies c USING (crypto_id)
 WHERE b.day = '{day}' AND b.batch_id IN ({batches})"""


def rows_of_database(url, query, names, kinds):
    """Rows as Python values, from what psql copies: text, apart from the drivers the export uses."""
    shown = ", ".join(
        f'to_json(x."{name}")' if pyarrow.types.is_list(kind) else f'x."{name}"'
        for name, kind in zip(names, kinds)
    )
    statement = f"COPY (SELECT {shown} FROM ({query}) x) TO STDOUT (FORMAT csv, NULL '\\N', FORCE_QUOTE *)"
    # FORCE_QUOTE leaves NULL alone: only it is without quotes, but csv can't tell; no text of ours is \\N.
    process = subprocess.run(
        ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-c", "SET TimeZone = 'UTC'", "-c", statement, url],
        stdout=subprocess.PIPE, check=True, encoding="utf-8",
    )
    for row in csv.reader(process.stdout.splitlines(keepends=True)):
        yield tuple(value(text, kind) for text, kind in zip(row, kinds, strict=True))


def value(text, kind):
    if text == "\\N":
        return None
    if pyarrow.types.is_boolean(kind):
        return {"t": True, "f": False}[text]
    if pyarrow.types.is_integer(kind):
        return int(text)
    if pyarrow.types.is_decimal(kind):
        return decimal.Decimal(text)
    if pyarrow.types.is_date(kind):
        return datetime.date.fromisoformat(text)
    if pyarrow.types.is_timestamp(kind):
        return datetime.datetime.fromisoformat(text if text[-6] in "+-" else text + ":00")
    if pyarrow.types.is_list(kind):
        return tuple(json.loads(text))
    return text


def rows_of_file(table):
    columns = [column.to_pylist() for column in table.columns]
    for row in zip(*columns):
        yield tuple(tuple(cell) if isinstance(cell, list) else cell for cell in row)


def compare(path, query, url, entry):
    """Compares one file; the number of its rows."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != entry["sha256"] or path.stat().st_size != entry["bytes"]:
        raise SystemExit(f"{path}: hash or size is not that of the manifest")
    table = pyarrow.parquet.read_table(path)
    names, kinds = table.schema.names, table.schema.types
    if names != [column["name"] for column in entry["columns"]] or table.num_rows != entry["rows"]:
        raise SystemExit(f"{path}: columns or rows are not those of the manifest")
    if any(pyarrow.types.is_floating(kind) for kind in kinds):
        raise SystemExit(f"{path}: a column is a float")
    order = repr
    ours = sorted(rows_of_file(table), key=order)
    theirs = sorted(rows_of_database(url, query, names, kinds), key=order)
    if len(ours) != len(theirs):
        raise SystemExit(f"{path}: {len(ours)} rows, the database has {len(theirs)}")
    for mine, other in zip(ours, theirs):
        if mine != other:
            different = [name for name, a, b in zip(names, mine, other) if a != b]
            raise SystemExit(f"{path}: {different} differ\n  file     {mine}\n  database {other}")
    return len(ours)


def main():
    directory, url = pathlib.Path(sys.argv[1]), sys.argv[2]
    days = sorted(directory.glob("day=*"))
    if not days:
        raise SystemExit(f"{directory} holds no day")
    for day in days:
        manifest = json.loads((day / "manifest.json").read_text())
        batches = ", ".join(str(batch["batch_id"]) for batch in manifest["batches"])
        queries = {"offers.parquet": OFFERS, "books.parquet": BOOKS}
        counts = {}
        for entry in manifest["files"]:
            query = queries[entry["name"]].format(day=manifest["day"], batches=batches)
            counts[entry["name"]] = compare(day / entry["name"], query, url, entry)
        if counts["offers.parquet"] != manifest["completeness"]["ads"]:
            raise SystemExit(f"{day}: the certificates count other ads than are there")
        print(f"{manifest['day']}: " + ", ".join(f"{name} {rows} rows equal" for name, rows in counts.items()))
    dimensions = directory / "dimensions"
    for entry in json.loads((dimensions / "manifest.json").read_text())["files"]:
        relation = entry["name"].removesuffix(".parquet")
        rows = compare(dimensions / entry["name"], f"SELECT * FROM warehouse.{relation}", url, entry)
        print(f"{relation}: {rows} rows equal")


main()
