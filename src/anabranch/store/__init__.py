"""The store: what happened in each run, kept in SQLite or PostgreSQL."""
