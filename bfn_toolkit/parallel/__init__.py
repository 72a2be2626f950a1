"""The processes of a job: their communication, their devices, and the signals that stop them."""
