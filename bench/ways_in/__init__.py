"""Parts of ``bench/ingest.py``: one for each source that it measures."""
