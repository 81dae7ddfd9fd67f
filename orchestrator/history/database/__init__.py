"""The index database: connecting, tables, migrations, and the stores that it knows."""
