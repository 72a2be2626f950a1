"""Base of the datasets that read files: safe reading, and tables of numbers with their places."""
