"""What datasets of files stand on: reading a file once and unchanged, and tables of numbers with their places."""
