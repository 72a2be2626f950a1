"""Mixed tables beside other generators of tables: ``make bench-tables``."""
