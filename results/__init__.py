"""The results room: one SQLite database, and the pure functions that read figures from it."""
