"""The page about a run: one HTML file that can be sent to someone, and reads nothing but itself."""
