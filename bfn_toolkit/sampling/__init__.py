"""From the prior to a sample: samplers, time grids, and draws in chunks of rows."""
