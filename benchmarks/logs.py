"""A seeded log of a shop, as large as asked: time-ordered, with users of very different activity."""

import sys
from pathlib import Path

import duckdb

QUERY = """
COPY (
  WITH draws AS (
    SELECT i, hash(i) % 1000003 / 1000003 AS e, hash(i * 7 + 1) % 1000003 / 1000003 AS u,
           hash(i * 13 + 2) % 1000003 / 1000003 AS p, hash(i * 17 + 3) % 1000003 / 1000003 AS q
    FROM range({rows}) AS rows(i))
  SELECT CASE WHEN e < 0.45 THEN 'page_view' WHEN e < 0.65 THEN 'view_item' WHEN e < 0.72 THEN 'use_filter'
              WHEN e < 0.78 THEN 'add_to_cart' WHEN e < 0.82 THEN 'add_to_wishlist' WHEN e < 0.86 THEN 'begin_checkout'
              WHEN e < 0.89 THEN 'purchase' WHEN e < 0.94 THEN 'scroll' WHEN e < 0.97 THEN 'newsletter_signup'
              WHEN e < 0.99 THEN 'app_open' ELSE 'field_error' END AS event_name,
         TIMESTAMP '2026-01-01' + to_microseconds(CAST(i * (90 * 86400e6 / {rows}) AS BIGINT)) AS timestamp,
         'u' || CAST(pow(u, 1.5) * {rows} / 20 AS INTEGER) AS user_id,
         user_id || '-' || (i * 90 // {rows}) AS session_id,
         '/p/' || CAST(p * 300 AS INTEGER) AS land,
         '/p/' || CAST(p * 3000 AS INTEGER) AS page_path,
         CASE WHEN p < 0.3 THEN 'https://search.example/' WHEN p < 0.5 THEN 'https://social.example/' END AS referrer,
         ['search', 'social', 'direct', 'mail'][1 + CAST(floor(q * 4) AS INTEGER)] AS source,
         ['cpc', 'organic', 'none', 'email'][1 + CAST(floor(q * 4) AS INTEGER)] AS medium,
         CASE WHEN q < 0.2 THEN 'spring' END AS campaign,
         ['mobile', 'desktop', 'tablet'][1 + CAST(floor(u * 3) AS INTEGER)] AS device_type,
         ['DE', 'US', 'FR', 'GB', 'NO'][1 + CAST(floor(u * 5) AS INTEGER)] AS geo,
         CASE WHEN e BETWEEN 0.45 AND 0.89 THEN 'sku' || CAST(p * 2000 AS INTEGER) END AS product_id,
         CASE WHEN event_name = 'purchase' THEN round(p * 100, 2) END AS value,
         CASE WHEN event_name = 'purchase' THEN 'USD' END AS currency
  FROM draws ORDER BY i)
TO '{path}' (FORMAT parquet, COMPRESSION zstd)
"""


def write_log(folder: Path, rows: int) -> Path:
    """Write the log of so many rows, or find it there."""
    path = folder / f"log-{rows}.parquet"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with duckdb.connect() as engine:
            engine.execute(QUERY.format(rows=rows, path=path))
    return path


if __name__ == "__main__":
    print(write_log(Path(sys.argv[1]), int(float(sys.argv[2]))))
