"""Durable files and folders, their locks, and tensors in files."""
