"""A seeded log of a shop, as large as asked: users of very different activity, times in whole seconds."""

import sys
import zlib
from pathlib import Path

import duckdb

#: A user's device, source, medium and country never change, so that every engine's breakdown means the same.
QUERY = """
COPY (
  WITH draws AS (
    SELECT i, hash(i) / 18446744073709551616 AS e, hash(i * 7 + 1) / 18446744073709551616 AS u,
           hash(i * 13 + 2) / 18446744073709551616 AS p, hash(i * 17 + 3) / 18446744073709551616 AS q,
           CAST(floor(pow(u, 1.5) * {rows} / 20) AS INTEGER) AS user_number
    FROM range({rows}) AS rows(i))
  SELECT CASE WHEN e < 0.45 THEN 'page_view' WHEN e < 0.65 THEN 'view_item' WHEN e < 0.72 THEN 'use_filter'
              WHEN e < 0.78 THEN 'add_to_cart' WHEN e < 0.82 THEN 'add_to_wishlist' WHEN e < 0.86 THEN 'begin_checkout'
              WHEN e < 0.89 THEN 'purchase' WHEN e < 0.94 THEN 'scroll' WHEN e < 0.97 THEN 'newsletter_signup'
              WHEN e < 0.99 THEN 'app_open' ELSE 'field_error' END AS event_name,
         TIMESTAMP '2026-01-01' + to_seconds(i * 90 * 86400 // {rows}) AS timestamp,
         'u' || user_number AS user_id,
         user_id || '-' || (i * 90 // {rows}) AS session_id,
         '/p/' || CAST(p * 300 AS INTEGER) AS land,
         '/p/' || CAST(p * 3000 AS INTEGER) AS page_path,
         CASE WHEN p < 0.3 THEN 'https://search.example/' WHEN p < 0.5 THEN 'https://social.example/' END AS referrer,
         ['search', 'social', 'direct', 'mail'][1 + user_number // 3 % 4] AS source,
         ['cpc', 'organic', 'none', 'email'][1 + user_number // 3 % 4] AS medium,
         CASE WHEN q < 0.2 THEN 'spring' END AS campaign,
         ['mobile', 'desktop', 'tablet'][1 + user_number % 3] AS device_type,
         ['DE', 'US', 'FR', 'GB', 'NO'][1 + user_number // 12 % 5] AS geo,
         CASE WHEN e BETWEEN 0.45 AND 0.89 THEN 'sku' || CAST(p * 2000 AS INTEGER) END AS product_id,
         CASE WHEN event_name = 'purchase' THEN round(p * 100, 2) END AS value,
         CASE WHEN event_name = 'purchase' THEN 'USD' END AS currency
  FROM draws {order})
TO '{path}' (FORMAT parquet, COMPRESSION zstd)
"""


def write_log(folder: Path, rows: int, *, shuffled: bool = False) -> Path:
    """Write the log of so many rows, in order of time or in none, or find it there."""
    version = zlib.crc32(QUERY.encode())
    path = folder / f"log-{version:08x}-{rows}{'-shuffled' if shuffled else ''}.parquet"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(".writing")
        with duckdb.connect(config={"temp_directory": str(folder / "sorting"), "memory_limit": "3GB"}) as engine:
            order = "ORDER BY hash(i * 19 + 4)" if shuffled else ""
            engine.execute(QUERY.format(rows=rows, order=order, path=scratch))
        scratch.rename(path)
    return path


if __name__ == "__main__":
    print(write_log(Path(sys.argv[1]), int(float(sys.argv[2])), shuffled="shuffled" in sys.argv[3:]))
