"""The processes of a job: what they tell each other, where they run, and the signals that stop them."""
