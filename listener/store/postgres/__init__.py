"""The store in PostgreSQL: the extra ``fleet``. Nothing outside this package imports psycopg."""
