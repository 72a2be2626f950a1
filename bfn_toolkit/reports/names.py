"""Names of scores, as people read them."""

DISTANCES = {
    "w1": "W1 to the data",
    "sliced_w1": "sliced W1 to the data",
    "mmd": "MMD squared to the data",
    "w1_lengths": "W1 of the distances in a set",
    "tv_site": "total variation to the data, one site",
    "tv_pair": "total variation to the data, neighbours",
    "mean": "mean distance of the parts to the data",
    "pairs": "association of pairs of columns, off by",
    "column": "distance of the column to the data",
}
BASELINES = {
    "independent": "each {} by itself",
    "pairs": "each {} from the one before",
    "neighbours": "from left and upper neighbours",
}
COMPARED = {
    "total_nats": "bound, in nats",
    "bits_per_dimension": "bound, in bits per dimension",
    "log_density_nats": "log-density, in nats",
    "importance.total_nats": "bound of several particles, in nats",
    "samples.w1": "W1 of samples",
    "samples.sliced_w1": "sliced W1 of samples",
    "samples.mmd": "MMD squared of samples",
    "samples.tv_site": "total variation of samples, one site",
    "samples.tv_pair": "total variation of samples, neighbours",
    "samples.table.two_samples.samples": "AUC of samples told from rows",
    "samples.table.pairs.mean.samples": "associations of pairs of columns, off by",
    "samples.table.copies.samples": "share of copied training rows",
}
