"""Configuration: from files and options to attrs values, and back."""
